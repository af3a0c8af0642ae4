/* A chart of figures by layer, each beside the interval that chance gives. */

/** A chart is {name, points: [{layer, value, chance: {mean, low, high}}], show(value)}. */
function drawIntervals(host, chart) {
  const values = chart.points.flatMap(({ value, chance }) => [value, chance?.low, chance?.high]);
  const layers = chart.points.map((point) => point.layer);
  const [first, last] = [Math.min(...layers), Math.max(...layers)];
  const every = Math.ceil(layers.length / 16);
  const x = { name: "layer", low: first - 0.5, high: last + 0.5, ticks: layers.filter((_layer, place) => place % every === 0) };
  const frame = drawFrame(host, chart.name, x, { ...extent(values), show: chart.show }, 220);
  const room = frame.xAt(first + 1) - frame.xAt(first);
  chart.points.forEach((point) => frame.svg.append(...pointShapes(frame, point, Math.min(10, room * 0.6))));
  const guide = shape("line", { y1: frame.edge.top, y2: frame.edge.bottom, class: "guide", visibility: "hidden" });
  frame.svg.append(guide);
  const hide = () => {
    guide.setAttribute("visibility", "hidden");
    hideTooltip();
  };
  const show = (place, clientX, clientY) => {
    const { layer, value, chance } = chart.points[place];
    fill(guide, { x1: frame.xAt(layer), x2: frame.xAt(layer), visibility: "visible" }, []);
    const lines = [["found", chart.show(value)], ["chance", chart.show(chance?.mean)], ["its 95 % interval", interval(chance, chart.show)]];
    showTooltip(clientX, clientY, { title: `layer ${layer}`, lines });
  };
  followPlaces(frame, layers, show, hide);
}

function pointShapes(frame, { layer, value, chance }, width) {
  const x = frame.xAt(layer);
  const shapes = [];
  if (chance && isNumber(chance.low) && isNumber(chance.high)) {
    const [high, low] = [frame.yAt(chance.high), frame.yAt(chance.low)];
    shapes.push(shape("rect", { x: x - width / 2, y: high - 1, width, height: Math.max(2, low - high + 2), rx: 2, class: "chance" }));
  }
  if (isNumber(value)) shapes.push(shape("circle", { cx: x, cy: frame.yAt(value), r: Math.min(4, width * 0.6), class: "found" }));
  return shapes;
}

/** Names the two things that such a chart shows. */
function addIntervalKey(host) {
  const found = element("span", { class: "swatch round" });
  const chance = element("span", { class: "swatch bar-of-chance" });
  const names = [element("span", {}, found, "found"), element("span", {}, chance, "95 % of what chance gives")];
  host.append(element("p", { class: "key" }, ...names));
}
