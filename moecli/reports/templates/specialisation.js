/* What the experts specialise in, beside what chance gives. */

function showSpecialisation() {
  if (report.specialisation.length) showLabels();
  if (report.vocabulary.length) showVocabulary();
}

function showLabels() {
  const [map, test, chart] = [byId("specialisation-map"), byId("specialisation-test"), byId("specialisation-chart")];
  const label = () => report.specialisation[state.label];
  const redraws = [
    keepDrawn(map, () => drawLabel(map, label(), label().layers[state.specialisationLayer])),
    keepDrawn(test, () => drawLabelTest(test, label(), label().layers[state.specialisationLayer])),
    keepDrawn(chart, () => {
      addIntervalKey(chart);
      const points = label().layers.map((layer) => ({ layer: layer.layer, value: layer.nmi, chance: layer.nmi_null }));
      drawIntervals(chart, { name: `NMI of ${label().label} by layer`, points, show: fixed });
    }),
  ];
  const redraw = () => redraws.forEach((draw) => draw());
  const controls = byId("specialisation-controls");
  addMenu(controls, "Label", "label", report.specialisation.map(({ label: name }, place) => [place, readable(name)]), redraw);
  addLayerMenu(controls, "specialisationLayer", report.specialisation[0].layers, redraw);
}

const readable = (name) => name.replaceAll("_", " ");

function drawLabel(host, label, layer) {
  if (!label.values.length) {
    host.append(element("p", { class: "empty" }, "No value of this label has enough tokens."));
    return;
  }
  addKey(host, "share of tokens over chance", RATIO_TICKS, ["▲ special, above chance", "▼ special, below"]);
  drawHeatmap(host, {
    name: `${label.label} by expert, layer ${layer.layer}`,
    rows: label.values, rowTitle: readable(label.label), columns: layer.chance[0].length, columnTitle: "expert",
    scale: RATIOS, missing: "not known, or chance gives none", text: (value) => fixed(value, 2), textLength: 4,
    value: (row, column) => ratio(layer.share_of_tokens[row][column], layer.chance[row][column]),
    mark: (row, column) => specialMark(layer.special[row][column]),
    describe: (row, column) => ({
      title: [element("bdi", {}, label.values[row]), `, expert ${column}`],
      lines: [
        ["share of its tokens", percent(layer.share_of_tokens[row][column])],
        ["chance", percent(layer.chance[row][column])],
        ["its 95 % interval", `${percent(layer.low[row][column])} to ${percent(layer.high[row][column])}`],
        ["share of its assignments", percent(layer.share_of_assignments[row][column])],
        ["tokens with this label", whole(label.counts[row])],
        ["special", specialWords(layer.special[row][column])],
      ],
    }),
  });
}

const specialMark = (special) => ({ 1: "up", "-1": "down" })[special];
const specialWords = (special) => ({ 1: "▲ above chance", 0: "no, within chance", "-1": "▼ below chance" })[special] ?? DASH;

function verdict(significant) {
  const words = { true: "Beyond chance", false: "Not beyond chance" }[significant] ?? "Not tested";
  return element("p", { class: `verdict ${significant ? "beyond" : ""}` }, words);
}

function drawLabelTest(host, label, layer) {
  host.append(
    element("h4", {}, `${readable(label.label)}, layer ${layer.layer}`),
    verdict(layer.significant),
    definitions([
      ["NMI", fixed(layer.nmi)],
      ["chance", fixed(layer.nmi_null?.mean)],
      ["its 95 % interval", interval(layer.nmi_null, fixed)],
      ["NMI, chance taken off", fixed(layer.nmi_corrected)],
      ["mutual information", `${fixed(layer.mutual_information)} nats`],
      ["p-value", fixed(layer.p_value)],
    ]),
    element("p", { class: "small" }, `${chanceWords(label)}${leftOutWords(label)}`),
  );
}

function chanceWords(label) {
  const what = label.label === "position" ? "moved along the sequences" : "exchanged";
  return `Chance: ${whole(label.documents)} documents ${what} at random, ${whole(label.permutations)} times.`;
}

function leftOutWords({ too_rare: count, min_count: least }) {
  return count ? ` ${whole(count)} values left out: fewer than ${whole(least)} tokens, or not among the 50 most frequent.` : "";
}

function showVocabulary() {
  const [table, test] = [byId("vocabulary-table"), byId("vocabulary-test")];
  const layer = () => report.vocabulary[state.vocabularyLayer];
  const redraws = [keepDrawn(table, () => drawVocabulary(table, layer())), keepDrawn(test, () => drawVocabularyTest(test, layer()))];
  addLayerMenu(byId("vocabulary-controls"), "vocabularyLayer", report.vocabulary, () => redraws.forEach((draw) => draw()));
}

function drawVocabulary(host, layer) {
  addTable(host, {
    name: `Tokens of layer ${layer.layer} that an expert runs for the furthest above chance`,
    columns: [
      { name: "token", value: (row) => visible(row.token) },
      { name: "id", show: (value) => written(value, { useGrouping: false }), value: (row) => row.id },
      { name: "count", show: whole, value: (row) => row.count },
      { name: "expert", show: whole, value: (row) => row.expert },
      { name: "share", show: percent, value: (row) => row.share, hint: "Of the token’s occurrences, those that the expert ran for" },
      { name: "chance", show: percent, value: (row) => row.chance },
      { name: "share / chance", show: times, value: (row) => ratio(row.share, row.chance) },
    ],
    rows: layer.top,
  });
}

function drawVocabularyTest(host, layer) {
  host.append(
    element("h4", {}, `vocabulary, layer ${layer.layer}`),
    verdict(layer.significant),
    definitions([
      ["largest share, mean over tokens", percent(layer.mean_max_share)],
      ["chance", percent(layer.null?.mean)],
      ["its 95 % interval", interval(layer.null, percent)],
      ["p-value", fixed(layer.p_value)],
    ]),
    element("p", { class: "small" }, `${whole(layer.token_types)} different tokens that occur at least ${whole(layer.min_count)} times. ` +
      "Chance is of two ways of shuffling the one that gives more."),
  );
}
