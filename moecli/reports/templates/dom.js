/* Builders for HTML and SVG. Text goes in as text nodes alone, so nothing that a report holds is ever read as markup. */

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const shape = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);

/** A labelled menu whose choice is kept in state[key]. Options are pairs of value and text. */
function addMenu(host, label, key, options, redraw) {
  const menu = element("select", { name: key, autocomplete: "off" });
  for (const [value, text] of options) menu.append(element("option", { value }, text));
  menu.value = state[key];
  menu.addEventListener("change", () => {
    state[key] = menu.value;
    redraw();
  });
  host.append(element("label", { class: "menu" }, element("span", {}, label), menu));
}

/** A menu of layers; what is chosen is the place in the list. */
function addLayerMenu(host, key, layers, redraw) {
  addMenu(host, "Layer", key, layers.map((layer, place) => [place, layer.layer]), redraw);
}

/** Draws now, and again whenever the width of the page changes. */
function keepDrawn(host, draw) {
  const redraw = () => {
    host.replaceChildren();
    draw();
  };
  let width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    redraw();
  });
  redraw();
  return redraw;
}

/** A list of names and values, as in the boxes beside a figure. */
function definitions(pairs) {
  const list = element("dl", { class: "values" });
  for (const [name, value] of pairs) list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  return list;
}
