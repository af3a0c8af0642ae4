/* How numbers are written. What is no number is a dash. */

const DASH = "–";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

const formatters = new Map();

function written(value, options) {
  if (!isNumber(value)) return DASH;
  const key = JSON.stringify(options);
  if (!formatters.has(key)) formatters.set(key, new Intl.NumberFormat("en-US", options));
  const text = formatters.get(key).format(value);
  return isNought(text) ? text.replace("-", "") : text.replace("-", "−");
}

const isNought = (text) => !/[1-9]/.test(text);
const whole = (value) => written(value, { maximumFractionDigits: 0 });
const fixed = (value, digits = 3) => written(value, { minimumFractionDigits: digits, maximumFractionDigits: digits });
const short = (value) => written(value, { maximumSignificantDigits: 3 });

/** A share in percent, with at least two digits that say something. */
function percent(value) {
  if (!isNumber(value)) return DASH;
  const size = Math.abs(value * 100);
  if (size > 0 && size < 0.001) return "< 0.001 %";
  const digits = { minimumSignificantDigits: 2, maximumSignificantDigits: 2 };
  return `${size > 0 && size < 0.1 ? written(value * 100, digits) : fixed(value * 100, size < 9.995 ? 2 : 1)} %`;
}

const shortPercent = (value) => (isNumber(value) ? `${short(value * 100)} %` : DASH);

function scaled(value, units, smallest) {
  if (!isNumber(value)) return DASH;
  const digits = (number) => written(number, { maximumSignificantDigits: 3 });
  if (Math.abs(value) >= 999.5 * units[0][0]) return `${value.toExponential(2)}${smallest}`;
  // What would be rounded up to 1,000 of a unit is 1 of the next.
  const found = units.find(([size]) => Math.abs(value) >= 0.9995 * size);
  return found ? `${digits(value / found[0])}${found[1]}` : `${digits(value)}${smallest}`;
}

const amount = (value) => scaled(value, [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]], "");
const bytes = (value) => scaled(value, [[1e12, " TB"], [1e9, " GB"], [1e6, " MB"], [1e3, " kB"]], " B");

/** A factor; how far it is beyond a thousand says nothing more. */
function times(value) {
  if (!isNumber(value)) return DASH;
  return value > 1000 ? "> 1,000×" : `${fixed(value, 2)}×`;
}

/** A number of any size with so many digits that say something. */
function significant(value, digits) {
  if (!isNumber(value) || value === 0) return isNumber(value) ? "0" : DASH;
  if (Math.abs(value) < 1e-6) return value.toExponential(digits - 1).replaceAll("-", "−");
  return written(value, { minimumSignificantDigits: digits, maximumSignificantDigits: digits });
}

/** A difference, with its sign. */
const withSign = (value, text) => (isNumber(value) && value > 0 && !isNought(text) ? `+${text}` : text);
const signed = (value, digits) => withSign(value, fixed(value, digits));
const difference = (value) => withSign(value, significant(value, 3));

const interval = (range, show) => (range ? `${show(range.low)} to ${show(range.high)}` : DASH);

/** A load in multiples of the even share. */
const multiple = (load, experts) => (isNumber(load) ? load * experts : null);

/** How many times one number is of another, to draw it; null where that says nothing. */
const ratio = (value, base) => (isNumber(value) && isNumber(base) && base > 0 ? value / base : null);

/** A token on one line: what can't be seen is written out. */
function visible(token) {
  const marks = { "\n": "↵", "\t": "⇥", "\r": "␍", " ": "␣" };
  return token === "" ? "(empty)" : token.replace(/[\n\t\r ]/g, (character) => marks[character]);
}
