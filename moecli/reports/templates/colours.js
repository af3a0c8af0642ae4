/* Colours that colour-blind readers can tell apart: a scale from blue over white to orange whose ends are equally dark, and Okabe and Ito's
   colours for what has no order. */

const DIVERGING = ["#1f5fa6", "#5b9bd0", "#c9def0", "#ffffff", "#fbd7b0", "#dc8630", "#a34d08"];
const DEPTH = ["#9cc3e4", "#4a90c9", "#1f5fa6", "#12305c"];
const HUES = ["#56b4e9", "#e69f00", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#9aa0a6"];
const MISSING = "#eceef1";
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

/** The colour of a number on a scale {low, high}, whose middle is white. */
const onScale = (scale, value) => (isNumber(value) ? between(DIVERGING, (value - scale.low) / (scale.high - scale.low)) : MISSING);

/** Whether white is easier to read on a number's colour than black. */
const isDark = (scale, value) => isNumber(value) && Math.abs((value - scale.low) / (scale.high - scale.low) - 0.5) > 0.36;

const layerColour = (place, count) => between(DEPTH, count > 1 ? place / (count - 1) : 1);
const expertHue = (expert) => HUES[expert % HUES.length];

/**
 * An expert's background: a light hue for the first eight; with a band in a second hue below it for the next, solid up to 64 and dashed
 * beyond, so that 128 experts look different and black stays readable on all of them.
 */
function expertBackground(expert) {
  if (expert < 0) return "#ffffff";
  const tint = mixed(expertHue(expert), "#ffffff", 0.42);
  const round = Math.floor(expert / HUES.length);
  if (round === 0) return tint;
  const band = HUES[(round + HUES.length - 1) % HUES.length];
  const end = round < HUES.length ? "6px" : "3px";
  return `repeating-linear-gradient(90deg, ${band} 0 ${end}, #fff ${end} 6px) bottom / 100% 4px no-repeat, ${tint}`;
}
