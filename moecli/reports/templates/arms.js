/* The arms of a comparison: their colours and dashes, and amounts of any size in three digits. */

const ARM_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#4d4d4d"];
const ARM_DASHES = [null, "7 4", "2 3", "9 3 2 3"];

// As in reports/dense_comparison.py: an arm that ends farther from the base than this is not fitted into a chart.
const NEAR_TIMES = 5;
const NEAR_SHARE = 0.05;

const armColour = (place) => ARM_COLOURS[place % ARM_COLOURS.length];
const armDashes = (place) => ARM_DASHES[Math.floor(place / ARM_COLOURS.length) % ARM_DASHES.length];

/** The final value of an arm, {mean, ci95, per_seed}, in the unit of the comparison. */
const finalOf = (arm) => arm[report.measure === "loss" ? "val_loss" : "bits_per_byte"] ?? { mean: null, ci95: null, per_seed: [] };

/** The base and the arms that end near it: what the axes of charts fit. An arm whose end is not known is near. */
function nearArms() {
  const [centre, ...others] = report.arms.map((arm) => finalOf(arm).mean);
  const distances = others.filter(isNumber).map((end) => Math.abs(end - centre)).sort((one, other) => one - other);
  if (!isNumber(centre) || !distances.length) return report.arms;
  const median = distances[Math.floor((distances.length - 1) / 2)];
  const most = Math.max(NEAR_TIMES * median, NEAR_SHARE * Math.abs(centre));
  return report.arms.filter((arm) => !isNumber(finalOf(arm).mean) || Math.abs(finalOf(arm).mean - centre) <= most);
}

/** Says under a chart which arms lie outside of it. */
function sayOutside(host, names) {
  if (!names.length) return;
  const listed = names.flatMap((name) => [", ", element("bdi", {}, withoutMiddle(name, 40))]).slice(1);
  host.append(element("p", { class: "small" }, "Outside the picture, which fits the base and the arms that end near it: ", ...listed, "."));
}

const apart = (value) => signed(value, 4);
const loss = (value) => fixed(value, 4);
const ends = (range, show) => (range ? `${show(range[0])} to ${show(range[1])}` : DASH);

/** A text whose middle is left out where it is longer than `most` letters. */
function withoutMiddle(text, most) {
  const letters = [...text];
  if (letters.length <= most) return text;
  const tail = Math.floor((most - 1) / 2);
  return `${letters.slice(0, most - 1 - tail).join("")}…${letters.slice(letters.length - tail).join("")}`;
}

/** Names every arm beside a piece of its line. */
function addArmKey(host) {
  const chips = report.arms.map((arm, place) => {
    const look = { stroke: armColour(place), "stroke-width": place ? 2 : 3.5, "stroke-dasharray": armDashes(place) };
    const line = shape("line", { x1: 0, x2: 28, y1: 5, y2: 5, ...look });
    const swatch = shape("svg", { width: 28, height: 10, class: "line-swatch", "aria-hidden": "true" }, line);
    return element("span", { class: "arm" }, swatch, element("bdi", { title: arm.name }, withoutMiddle(arm.name, 40)));
  });
  host.append(element("p", { class: "key" }, ...chips));
}
