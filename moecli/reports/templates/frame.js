/* The frame that charts share: axes with round numbers, and the way from a number to a place in the picture. */

/* How numbers beside an axis are written whose figures are written so. */
const TICKS = new Map([[percent, shortPercent], [bytes, bytes]]);

/** Round numbers that cover a range. */
function ticksOver(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const ticks = [];
  for (let place = Math.floor(low / step + 1e-9); place * step < high + step * 0.999; place += 1) ticks.push(place * step);
  return ticks;
}

/**
 * An empty chart in a host. `x` is {name, low, high, ticks?, show(value)?}, `y` is {low, high, show(value), tick(value)?, count?}, where
 * tick is how numbers beside the axis are written, and count about how many there are. Gives the svg and the scales `xAt`
 * and `yAt` from numbers to places.
 */
function drawFrame(host, name, x, y, height) {
  const width = Math.max(240, Math.min(760, host.clientWidth));
  const edge = { left: 58, right: width - 14, top: 12, bottom: height - 42 };
  const yTicks = ticksOver(y.low, y.high, y.count ?? 4);
  const [bottom, top] = [yTicks[0], yTicks[yTicks.length - 1]];
  const spread = x.high - x.low || 1;
  const xAt = (value) => edge.left + ((value - x.low) / spread) * (edge.right - edge.left);
  const yAt = (value) => edge.bottom - ((value - bottom) / (top - bottom)) * (edge.bottom - edge.top);
  const size = { width, height, viewBox: `0 0 ${width} ${height}` };
  const svg = shape("svg", { ...size, role: "img", "aria-label": name, class: "chart", tabindex: 0 });
  const tickText = y.tick ?? TICKS.get(y.show) ?? short;
  for (const tick of yTicks) {
    svg.append(shape("line", { x1: edge.left, x2: edge.right, y1: yAt(tick), y2: yAt(tick), class: tick === bottom ? "base" : "rule" }));
    svg.append(shape("text", { x: edge.left - 8, y: yAt(tick), class: "tick end" }, tickText(tick)));
  }
  for (const tick of x.ticks ?? ticksOver(x.low, x.high, 5).filter((value) => value >= x.low && value <= x.high)) {
    svg.append(shape("text", { x: xAt(tick), y: edge.bottom + 16, class: "tick middle" }, (x.show ?? whole)(tick)));
  }
  svg.append(shape("text", { x: edge.right, y: edge.bottom + 34, class: "axis end" }, `${x.name} →`));
  host.append(element("div", { class: "scroller" }, svg));
  return { svg, xAt, yAt, edge };
}

/** The smallest and the largest of the numbers, 0 among them. */
function extent(values) {
  const numbers = values.filter(isNumber);
  const low = numbers.reduce((least, value) => Math.min(least, value), 0);
  const high = numbers.reduce((most, value) => Math.max(most, value), 0);
  return { low, high: high > low ? high : 1 };
}

/** Calls show(place, clientX, clientY) for the nearest of some x as the pointer moves, or as the arrow keys do. */
function followPlaces(frame, xs, show, hide) {
  const { svg, xAt } = frame;
  let place = 0;
  const pointAt = (x, y) => {
    const box = svg.getBoundingClientRect();
    return [((x - box.left) / box.width) * svg.viewBox.baseVal.width, ((y - box.top) / box.height) * svg.viewBox.baseVal.height];
  };
  svg.addEventListener("pointermove", (event) => {
    const [x, y] = pointAt(event.clientX, event.clientY);
    const distances = xs.map((value) => Math.abs(xAt(value) - x));
    place = distances.indexOf(Math.min(...distances));
    show(place, event.clientX, event.clientY, y);
  });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    place = Math.min(xs.length - 1, Math.max(0, place + step));
    const box = svg.getBoundingClientRect();
    show(place, box.left + (xAt(xs[place]) / svg.viewBox.baseVal.width) * box.width, box.top + box.height / 2, null);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
}
