/* A table that is sorted by a click on a heading. */

/**
 * Columns are {name, value(row), show(value), hint}; the first one names the row. A column whose `show` is missing holds text, a `wide`
 * one much of it, a `brief` one so little that it stays on one line. A footer is a row that stays below.
 */
function addTable(host, { name, columns, rows, footer }) {
  const body = element("tbody");
  const table = element("table", {}, element("caption", { class: "unseen" }, name), heading(columns, rows, body), body);
  if (footer) table.append(element("tfoot", {}, tableRow(columns, footer)));
  body.append(...rows.map((row) => tableRow(columns, row)));
  host.append(element("div", { class: "table", tabindex: 0, role: "region", "aria-label": name }, table));
}

const columnKind = (column) => (column.show ? "number" : `words${column.wide ? " wide" : ""}${column.brief ? " brief" : ""}`);

function heading(columns, rows, body) {
  const cells = columns.map((column) => {
    const button = element("button", { type: "button", title: column.hint }, column.name);
    const cell = element("th", { scope: "col", "aria-sort": "none", class: columnKind(column) }, button);
    button.addEventListener("click", () => {
      const order = cell.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      cells.forEach((other) => other.setAttribute("aria-sort", other === cell ? order : "none"));
      body.replaceChildren(...sorted(rows, column, order).map((row) => tableRow(columns, row)));
    });
    return cell;
  });
  return element("thead", {}, element("tr", {}, ...cells));
}

function tableRow(columns, row) {
  const cells = columns.map((column, place) => {
    const value = column.value(row);
    const text = column.show ? column.show(value) : (value ?? DASH);
    return element(place ? "td" : "th", { scope: place ? null : "row", class: columnKind(column) }, String(text));
  });
  return element("tr", {}, ...cells);
}

/** In the order of a column; rows without a value come last either way. */
function sorted(rows, column, order) {
  const sign = order === "ascending" ? 1 : -1;
  const isThere = (value) => (column.show ? isNumber(value) : value !== null && value !== undefined);
  const compare = (one, other) => (column.show ? one - other : String(one).localeCompare(String(other)));
  return [...rows].sort((first, second) => {
    const [one, other] = [column.value(first), column.value(second)];
    if (!isThere(one) || !isThere(other)) return isThere(other) - isThere(one);
    return sign * compare(one, other);
  });
}
