/* A heatmap: a grid of rectangles with axes, a mark where a cell is special, hover, and arrow keys. */

/**
 * A figure is {name, rows, rowTitle, columns, columnTitle, scale, squarish, value(row, column), text(value), textLength,
 * mark(row, column), describe(row, column), missing}. `rows` are names and `columns` a number; `value` is undefined where there is no cell
 * and null where its number isn't known; `text` is written into cells that have room for `textLength` characters; `mark` is "up", "down",
 * "cross" or nothing; `describe` gives a tooltip's title and lines; `missing` says what the cells are whose number isn't known.
 */
function drawHeatmap(host, figure) {
  const grid = gridOf(host, figure);
  const svg = shape("svg", {
    width: grid.width, height: grid.height, viewBox: `0 0 ${grid.width} ${grid.height}`, role: "img", tabindex: 0, class: "heatmap",
    "aria-label": `${figure.name}. Move with the arrow keys.`,
  });
  svg.append(...axisNames(figure, grid));
  eachCell(figure, (row, column, value) => svg.append(...cell(figure, grid, row, column, value)));
  svg.append(...markPaths(figure, grid));
  svg.append(shape("rect", { class: "cursor", width: grid.cellWidth, height: grid.cellHeight, visibility: "hidden" }));
  followCells(svg, figure, grid);
  host.append(element("div", { class: "scroller" }, svg));
  nameMissing(host, figure);
}

/** The key says what grey is where there is some. */
function nameMissing(host, figure) {
  let isAny = false;
  eachCell(figure, (_row, _column, value) => {
    isAny ||= !isNumber(value);
  });
  if (!isAny) return;
  const swatch = element("span", { class: "swatch square" });
  swatch.style.setProperty("--colour", MISSING);
  host.querySelector(".key")?.append(element("span", { class: "missing" }, swatch, figure.missing ?? "not known"));
}

function eachCell(figure, visit) {
  for (let row = 0; row < figure.rows.length; row += 1) {
    for (let column = 0; column < figure.columns; column += 1) {
      const value = figure.value(row, column);
      if (value !== undefined) visit(row, column, value);
    }
  }
}

/** Sizes so that the grid fills its host, but no cell is too small to point at. */
function gridOf(host, figure) {
  const longest = Math.max(figure.rowTitle.length + 2, ...figure.rows.map((name) => shortened(name).length));
  const left = 14 + 6.6 * longest;
  const top = 40;
  const cellHeight = Math.min(32, Math.max(10, Math.floor(440 / figure.rows.length)));
  const widest = figure.squarish ? cellHeight * 1.6 : 84;
  const room = Math.max(9, Math.min(widest, (host.clientWidth - left - 2) / figure.columns));
  const cellWidth = room > 32 ? Math.floor(room) : room;
  return {
    left, top, cellWidth, cellHeight, hasNumbers: cellHeight >= 18 && cellWidth >= 7 * figure.textLength + 6,
    width: Math.ceil(left + cellWidth * figure.columns + 2), height: top + cellHeight * figure.rows.length + 2,
    x: (column) => left + cellWidth * column, y: (row) => top + cellHeight * row,
  };
}

const shortened = (name) => (name.length > 22 ? `${name.slice(0, 21)}…` : name);

function axisNames(figure, grid) {
  const texts = [
    shape("text", { x: grid.left - 8, y: grid.top - 8, class: "axis end" }, `${figure.rowTitle} ↓`),
    shape("text", { x: grid.left, y: 12, class: "axis" }, `${figure.columnTitle} →`),
  ];
  const everyColumn = labelStep(grid.cellWidth, 20);
  for (let column = 0; column < figure.columns; column += everyColumn) {
    texts.push(shape("text", { x: grid.x(column) + grid.cellWidth / 2, y: grid.top - 8, class: "tick middle" }, String(column)));
  }
  const everyRow = labelStep(grid.cellHeight, 12);
  for (let row = 0; row < figure.rows.length; row += everyRow) {
    texts.push(shape("text", { x: grid.left - 8, y: grid.y(row) + grid.cellHeight / 2, class: "tick end" }, shortened(figure.rows[row])));
  }
  return texts;
}

const labelStep = (size, need) => [1, 2, 4, 8, 16, 32].find((step) => step * size >= need);

function cell(figure, grid, row, column, value) {
  const place = { x: grid.x(column), y: grid.y(row), width: grid.cellWidth, height: grid.cellHeight };
  const nodes = [shape("rect", { ...place, fill: onScale(figure.scale, value), "data-cell": `${row},${column}` })];
  if (grid.hasNumbers) {
    const colour = isDark(figure.scale, value) ? "inverse" : "";
    const middle = { x: place.x + place.width / 2, y: place.y + place.height / 2 };
    nodes.push(shape("text", { ...middle, class: `in-cell middle ${colour}` }, figure.text(value)));
  }
  return nodes;
}

/** One path for all marks of a kind. Where cells hold numbers the marks go to a corner. */
function markPaths(figure, grid) {
  if (!figure.mark) return [];
  const size = Math.min(4, grid.cellWidth * 0.3, grid.cellHeight * 0.3);
  const outlines = { up: "", down: "", cross: "" };
  eachCell(figure, (row, column) => {
    const mark = figure.mark(row, column);
    if (!mark) return;
    const x = grid.x(column) + (grid.hasNumbers ? grid.cellWidth - size - 2 : grid.cellWidth / 2);
    const y = grid.y(row) + (grid.hasNumbers ? size + 2 : grid.cellHeight / 2);
    outlines[mark] += MARKS[mark](x, y, size);
  });
  return Object.entries(outlines).filter(([, d]) => d).map(([kind, d]) => shape("path", { d, class: `mark ${kind}` }));
}

const MARKS = {
  up: (x, y, s) => `M${x - s} ${y + s * 0.8}L${x} ${y - s}L${x + s} ${y + s * 0.8}Z`,
  down: (x, y, s) => `M${x - s} ${y - s * 0.8}L${x} ${y + s}L${x + s} ${y - s * 0.8}Z`,
  cross: (x, y, s) => `M${x - s} ${y - s}L${x + s} ${y + s}M${x - s} ${y + s}L${x + s} ${y - s}`,
};

/** The tooltip and the frame around a cell follow the pointer, or the arrow keys. */
function followCells(svg, figure, grid) {
  const cursor = svg.querySelector(".cursor");
  let [row, column] = [0, 0];
  const show = (x, y) => {
    cursor.setAttribute("x", grid.x(column));
    cursor.setAttribute("y", grid.y(row));
    cursor.setAttribute("visibility", "visible");
    showTooltip(x, y, figure.describe(row, column));
  };
  const hide = () => {
    cursor.setAttribute("visibility", "hidden");
    hideTooltip();
  };
  svg.addEventListener("pointermove", (event) => {
    const at = event.target.dataset.cell;
    if (!at) return hide();
    [row, column] = at.split(",").map(Number);
    return show(event.clientX, event.clientY);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const [down, right] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
    if (!down && !right) return;
    event.preventDefault();
    const target = svg.querySelector(`[data-cell="${row + down},${column + right}"]`);
    if (!target) return;
    [row, column] = [row + down, column + right];
    const box = target.getBoundingClientRect();
    show(box.right, box.top);
  });
}

/** What the colours and the marks of a heatmap stand for. */
function addKey(host, title, ticks, marks = []) {
  const bar = element("span", { class: "bar" }, ...ticks.map((tick) => element("span", {}, tick)));
  bar.style.setProperty("--ramp", `linear-gradient(90deg, ${DIVERGING.join(", ")})`);
  host.append(element("p", { class: "key" }, element("span", {}, title), bar, ...marks.map((mark) => element("span", {}, mark))));
}
