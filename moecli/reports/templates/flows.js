/* The flow of tokens from the experts of one layer to those of the next, drawn as ribbons as wide as the share of tokens. */

const LAYERS_AT_ONCE = 6;
const MOST_RIBBONS = 150;
const NODE_WIDTH = 26;
const BAND_WIDTH = 5;

function showFlows() {
  const host = byId("flows");
  const { transitions } = report.paths;
  const redraw = keepDrawn(host, () => {
    const first = Number(state.firstFlow);
    drawFlows(host, transitions.slice(first, first + LAYERS_AT_ONCE - 1));
  });
  const starts = [];
  for (let start = 0; start < transitions.length; start += LAYERS_AT_ONCE - 1) starts.push(start);
  const name = (start) => {
    const last = Math.min(transitions.length, start + LAYERS_AT_ONCE - 1) - 1;
    return `${transitions[start].from_layer} to ${transitions[last].to_layer}`;
  };
  if (starts.length > 1) addMenu(byId("flow-controls"), "Layers", "firstFlow", starts.map((start) => [start, name(start)]), redraw);
}

function drawFlows(host, transitions) {
  const columns = flowColumns(transitions);
  const most = Math.max(...columns.map((column) => column.shares.length));
  const height = Math.min(640, Math.max(260, most * 28));
  const width = Math.max(host.clientWidth, columns.length * 96);
  const gap = Math.min(6, (height * 0.25) / most);
  columns.forEach((column, place) => {
    column.x = (place * (width - NODE_WIDTH)) / (columns.length - 1);
    column.nodes = stacked(column.shares, height - 30, gap);
  });
  const ribbons = transitions.map((transition, place) => ribbonsOf(transition, columns[place], columns[place + 1]));
  const name = `Flow of tokens from layer ${columns[0].layer} to layer ${columns[columns.length - 1].layer}`;
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name, class: "flows" });
  ribbons.flat().forEach((ribbon) => svg.append(ribbonShape(ribbon)));
  columns.forEach((column) => svg.append(...nodeShapes(column, height)));
  followFlows(svg);
  host.append(element("div", { class: "scroller" }, svg), element("p", { class: "small" }, coverage(ribbons)));
}

/** The layers in order, each with the share of tokens of its experts: what leaves them, or, in the last layer, what arrives. */
function flowColumns(transitions) {
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const columns = transitions.map(({ from_layer: layer, share }) => ({ layer, shares: share.map((row) => sum(Array.from(row))) }));
  const { to_layer: layer, share } = transitions[transitions.length - 1];
  columns.push({ layer, shares: Array.from(share[0], (_value, column) => sum(share.map((row) => row[column]))) });
  return columns;
}

function stacked(shares, height, gap) {
  const scale = height - gap * (shares.length - 1);
  let y = 0;
  return shares.map((share) => {
    const node = { y, height: share * scale, share, scale };
    y += node.height + gap;
    return node;
  });
}

/** The heaviest ribbons of a transition, each at its place among all that leave and all that arrive. */
function ribbonsOf(transition, from, to) {
  const arrived = to.nodes.map((node) => node.y);
  const ribbons = [];
  transition.share.forEach((row, first) => {
    let left = from.nodes[first].y;
    row.forEach((share, second) => {
      const [leaving, arriving] = [share * from.nodes[first].scale, share * to.nodes[second].scale];
      ribbons.push({ from, to, first, second, share, y0: left, y1: arrived[second], leaving, arriving });
      left += leaving;
      arrived[second] += arriving;
    });
  });
  return ribbons.filter(({ share }) => share > 0).sort((one, other) => other.share - one.share).slice(0, MOST_RIBBONS);
}

function ribbonShape(ribbon) {
  const { from, to, first, second, y0, y1, leaving, arriving } = ribbon;
  const [x0, x1] = [from.x + NODE_WIDTH, to.x];
  const half = (x0 + x1) / 2;
  const curve = (start, end) => `C${half} ${start} ${half} ${end}`;
  const d = `M${x0} ${y0}${curve(y0, y1)} ${x1} ${y1}V${y1 + arriving}${curve(y1 + arriving, y0 + leaving)} ${x0} ${y0 + leaving}Z`;
  const colour = expertHue(first);
  const ends = `${from.layer}:${first} ${to.layer}:${second}`;
  const node = shape("path", { d, fill: colour, stroke: colour, class: "ribbon", "data-ends": ends });
  const title = `layer ${from.layer} expert ${first} → layer ${to.layer} expert ${second}`;
  node.tip = { title, lines: [["of the tokens", percent(ribbon.share)]] };
  return node;
}

function nodeShapes(column, height) {
  const shapes = column.nodes.flatMap((node, expert) => {
    const box = { x: column.x, y: node.y, width: NODE_WIDTH, height: Math.max(0.5, node.height) };
    const rect = shape("rect", { ...box, fill: expertHue(expert), class: "node", "data-node": `${column.layer}:${expert}` });
    rect.tip = { title: `layer ${column.layer}, expert ${expert}`, lines: [["first choice of", `${percent(node.share)} of the tokens`]] };
    const parts = [rect];
    const band = bandHue(expert);
    if (band !== null) parts.push(shape("rect", { ...box, width: BAND_WIDTH, fill: band, class: "in-cell band" }));
    if (node.height < 11) return parts;
    const dark = expertHue(expert) === "#0072b2" ? "inverse" : "";
    const middle = { x: box.x + (NODE_WIDTH + (band === null ? 0 : BAND_WIDTH)) / 2, y: node.y + node.height / 2 };
    return [...parts, shape("text", { ...middle, class: `in-cell middle ${dark}` }, String(expert))];
  });
  const isFirst = column.x === 0;
  const place = { x: isFirst ? 0 : column.x + NODE_WIDTH, y: height - 9, class: isFirst ? "axis" : "axis end" };
  return [...shapes, shape("text", place, `layer ${column.layer}`)];
}

/** Under the pointer a ribbon stands out, or all ribbons of an expert. */
function followFlows(svg) {
  const ribbons = [...svg.querySelectorAll(".ribbon")];
  const highlight = (chosen) => {
    svg.classList.toggle("chosen", chosen.length > 0);
    ribbons.forEach((ribbon) => ribbon.classList.toggle("bright", chosen.includes(ribbon)));
  };
  svg.addEventListener("pointermove", (event) => {
    const { target } = event;
    if (!target.tip) return leave();
    highlight(target.dataset.node ? ribbons.filter((ribbon) => ribbon.dataset.ends.split(" ").includes(target.dataset.node)) : [target]);
    return showTooltip(event.clientX, event.clientY, target.tip);
  });
  const leave = () => {
    highlight([]);
    hideTooltip();
  };
  svg.addEventListener("pointerleave", leave);
}

/** What the colours say, and how much is drawn where not everything is. */
function coverage(ribbons) {
  const repeats = report.paths.transitions.some(({ share }) => share.length > HUES.length);
  const hint = repeats ? ` Colours come back after ${HUES.length} experts; the band on a box tells them apart.` : "";
  const base = `Ribbons have the colour of the expert that they leave.${hint}`;
  const cut = ribbons.filter((drawn) => drawn.length === MOST_RIBBONS);
  const shares = cut.map((drawn) => drawn.reduce((total, ribbon) => total + ribbon.share, 0));
  if (!shares.length) return base;
  const [least, most] = [percent(Math.min(...shares)), percent(Math.max(...shares))];
  return `${base} Between two layers only the ${MOST_RIBBONS} widest are drawn; they carry ${least} to ${most} of the tokens.`;
}
