/* Colours that colour-blind readers can tell apart: the pictures' scale from blue over white to red whose ends are equally dark
   (ColorBrewer's RdBu), and Okabe and Ito's colours for what has no order. */

const DIVERGING = [
  "#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f",
];
const DEPTH = ["#9cc3e4", "#4a90c9", "#1f5fa6", "#12305c"];
const HUES = ["#56b4e9", "#e69f00", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#9aa0a6"];
const MISSING = "#b4b8bf";
const channels = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));

function mixed(first, second, part) {
  const end = channels(second);
  return `rgb(${channels(first).map((value, place) => Math.round(value + (end[place] - value) * part)).join(", ")})`;
}

/** The colour at a place from 0 to 1 of evenly spaced stops. */
function between(stops, place) {
  const at = Math.min(1, Math.max(0, place)) * (stops.length - 1);
  const step = Math.min(stops.length - 2, Math.floor(at));
  return mixed(stops[step], stops[step + 1], at - step);
}

/** How many times chance, in equal steps for equal factors: half is as blue as twice is red. */
const RATIOS = { low: 1 / 4, high: 4, transform: Math.log };
const RATIO_TICKS = ["1/4 or less", "1", "4 or more"];

/** Where a number lies on a scale {low, high, transform}, from 0 to 1. */
function placeOn({ low, high, transform = Number }, value) {
  const [at, start, end] = [value, low, high].map(transform);
  return Math.min(1, Math.max(0, (at - start) / (end - start)));
}

/** The colour of a number on a scale, whose middle is white. */
const onScale = (scale, value) => (isNumber(value) ? between(DIVERGING, placeOn(scale, value)) : MISSING);

/** Whether white is easier to read on a number's colour than black. */
const isDark = (scale, value) => isNumber(value) && Math.abs(placeOn(scale, value) - 0.5) > 0.33;

const layerColour = (place, count) => between(DEPTH, count > 1 ? place / (count - 1) : 1);
const expertHue = (expert) => HUES[expert % HUES.length];

/** The second hue, which experts beyond the first eight have besides. */
function bandHue(expert) {
  const round = Math.floor(expert / HUES.length);
  return round === 0 ? null : HUES[(round + HUES.length - 1) % HUES.length];
}

/**
 * An expert's background: a light hue for the first eight; with a band in a second hue below it for the next, solid up to 64 and dashed
 * beyond, so that 128 experts look different and black stays readable on all of them.
 */
function expertBackground(expert) {
  if (expert < 0) return "#ffffff";
  const tint = mixed(expertHue(expert), "#ffffff", 0.42);
  const band = bandHue(expert);
  if (band === null) return tint;
  const end = expert < HUES.length ** 2 ? "6px" : "3px";
  return `repeating-linear-gradient(90deg, ${band} 0 ${end}, #fff ${end} 6px) bottom / 100% 4px no-repeat, ${tint}`;
}
