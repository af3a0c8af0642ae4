/* A line chart with hover. */

const MOST_NAMED_LINES = 6;

/**
 * A chart is {name, xName, x: [number], series, show(value), height}; a series {name, values, colour, dashed, strong} has a value, or null,
 * for every x, and x ascends.
 */
function drawLines(host, chart) {
  const series = chart.series.filter((line) => line.values.some(isNumber));
  if (!series.length) {
    host.append(element("p", { class: "empty" }, "Not known for this report."));
    return;
  }
  const range = extent(series.flatMap((line) => line.values));
  const x = { name: chart.xName, low: chart.x[0], high: chart.x[chart.x.length - 1], ticks: chart.x.length <= 6 ? chart.x : undefined };
  const frame = drawFrame(host, chart.name, x, { ...range, show: chart.show }, chart.height ?? 280);
  series.forEach((line) => frame.svg.append(...lineShapes(frame, chart.x, line)));
  const guide = shape("line", { y1: frame.edge.top, y2: frame.edge.bottom, class: "guide", visibility: "hidden" });
  const dot = shape("circle", { r: 4, class: "dot", visibility: "hidden" });
  frame.svg.append(guide, dot);
  followLines(frame, chart, series, guide, dot);
}

function lineShapes(frame, x, line) {
  let d = "";
  let isOpen = false;
  line.values.forEach((value, place) => {
    if (isNumber(value)) d += `${isOpen ? "L" : "M"}${frame.xAt(x[place]).toFixed(1)} ${frame.yAt(value).toFixed(1)}`;
    isOpen = isNumber(value);
  });
  const kind = `line${line.dashed ? " dashed" : ""}${line.strong ? " strong" : ""}`;
  const shapes = [shape("path", { d, class: kind, stroke: line.colour })];
  const known = line.values.flatMap((value, place) => (isNumber(value) ? [place] : []));
  if (known.length === 1 && !line.dashed) {
    shapes.push(shape("circle", { cx: frame.xAt(x[known[0]]), cy: frame.yAt(line.values[known[0]]), r: 3, fill: line.colour }));
  }
  return shapes;
}

function followLines(frame, chart, series, guide, dot) {
  const hide = () => {
    [guide, dot].forEach((node) => node.setAttribute("visibility", "hidden"));
    hideTooltip();
  };
  const show = (place, clientX, clientY, y) => {
    const there = series.filter((line) => isNumber(line.values[place]));
    if (!there.length) return hide();
    const far = (line) => (y === null ? 0 : Math.abs(frame.yAt(line.values[place]) - y));
    const nearest = there.reduce((best, line) => (far(line) < far(best) ? line : best));
    const named = there.length <= MOST_NAMED_LINES ? there : there.filter((line) => line === nearest || line.strong);
    fill(guide, { x1: frame.xAt(chart.x[place]), x2: frame.xAt(chart.x[place]), visibility: "visible" }, []);
    fill(dot, { cx: frame.xAt(chart.x[place]), cy: frame.yAt(nearest.values[place]), fill: nearest.colour, visibility: "visible" }, []);
    const lines = named.map((line) => [line.name, chart.show(line.values[place])]);
    return showTooltip(clientX, clientY, { title: `${chart.xName} ${whole(chart.x[place])}`, lines });
  };
  followPlaces(frame, chart.x, show, hide);
}

/** Names the lines by colour: each of a few, the first and the last of many, and those that stand apart. */
function addLineKey(host, series, apart = []) {
  const named = series.length <= 8 ? series : [series[0], series[series.length - 1]];
  const chips = [...named, ...apart].map((line) => {
    const swatch = element("span", { class: line.dashed ? "swatch dashed" : "swatch" });
    swatch.style.setProperty("--colour", line.colour);
    return element("span", {}, swatch, line.name);
  });
  if (series.length > named.length) chips.splice(1, 0, element("span", {}, "…"));
  host.append(element("p", { class: "key" }, ...chips));
}
