/* The text itself, each token in the colour of its expert, as in the Mixtral paper. */

function showText() {
  const { layers, sequences } = report.text;
  const tokens = sequences.flatMap((sequence, place) => addSequence(sequence, place, sequences.length));
  const repaint = () => {
    paint(tokens);
    drawExperts(tokens);
    isolate(tokens);
  };
  addMenu(byId("text-controls"), "Layer", "textLayer", layers.map((layer, place) => [place, layer]), () => {
    state.textExpert = null;
    repaint();
  });
  addNumbersSwitch();
  repaint();
}

/** Adds the running text of a sequence; gives its tokens as {node, experts}. */
function addSequence(sequence, place, count) {
  const text = element("p", { class: "running", dir: "auto", tabindex: 0, role: "region", "aria-label": `Document ${place + 1}` });
  const tokens = sequence.tokens.map((token, at) => {
    const node = element("span", { class: "token" }, ...pieces(token));
    return { node, token, experts: sequence.experts[at] };
  });
  text.append(...tokens.map(({ node }) => node));
  followTokens(text, new Map(tokens.map((token) => [token.node, token])));
  if (count > 1) byId("text-sequences").append(element("h3", {}, `Document ${place + 1}`));
  byId("text-sequences").append(text);
  return tokens;
}

/** A token's text, with newlines and tabs in elements of their own that the style gives a faint mark. */
function pieces(token) {
  if (token === "") return [element("span", { class: "nothing" })];
  const kinds = { "\n": "newline", "\t": "tab" };
  const parts = token.replaceAll("\r", "␍").split(/(\n|\t)/).filter((part) => part);
  return parts.map((part) => (kinds[part] ? element("span", { class: kinds[part] }, part) : part));
}

function paint(tokens) {
  for (const { node, experts } of tokens) {
    const expert = experts[state.textLayer];
    node.dataset.expert = expert < 0 ? DASH : expert;
    node.style.background = expertBackground(expert);
  }
}

/** The legend: one button for every expert of the layer that this text has. */
function drawExperts(tokens) {
  const present = [...new Set(tokens.map(({ experts }) => experts[state.textLayer]))].sort((one, other) => one - other);
  const buttons = present.map((expert) => {
    const button = element("button", { type: "button", "data-expert": expert }, expert < 0 ? "none" : String(expert));
    button.style.background = expertBackground(expert);
    button.addEventListener("click", () => {
      state.textExpert = state.textExpert === expert ? null : expert;
      isolate(tokens);
    });
    return button;
  });
  byId("text-legend").replaceChildren(element("span", {}, "Expert"), ...buttons);
}

/** Takes the colour off all tokens but those of the chosen expert, if one is chosen. */
function isolate(tokens) {
  const chosen = state.textExpert;
  for (const { node, experts } of tokens) node.classList.toggle("faded", chosen !== null && experts[state.textLayer] !== chosen);
  for (const button of byId("text-legend").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.expert) === chosen));
  }
}

function addNumbersSwitch() {
  const box = element("input", { type: "checkbox", autocomplete: "off" });
  box.addEventListener("change", () => byId("text-sequences").classList.toggle("numbered", box.checked));
  byId("text-controls").append(element("label", { class: "menu" }, box, element("span", {}, "number the tokens")));
}

function followTokens(text, tokens) {
  text.addEventListener("pointermove", (event) => {
    const found = tokens.get(event.target.closest(".token"));
    if (!found) return hideTooltip();
    const chips = Array.from(found.experts, (expert, place) => {
      const chip = element("span", { class: "chip" }, expert < 0 ? DASH : String(expert));
      chip.style.background = expertBackground(expert);
      return element("span", {}, element("small", {}, `layer ${report.text.layers[place]}`), chip);
    });
    const more = element("div", { class: "chips" }, ...chips);
    return showTooltip(event.clientX, event.clientY, { title: visible(found.token), lines: [], more });
  });
  text.addEventListener("pointerleave", hideTooltip);
}
