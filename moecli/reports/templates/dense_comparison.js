/* A comparison with dense twins: its figures and its tables. */

const ARM = { name: "arm", value: (row) => row.name ?? row.arm };

/** What an arm is there for. */
function roleOf(arm) {
  if (arm.name === report.base) return "base";
  const quantities = report.matches.filter((match) => match.arm === arm.name).map((match) => match.quantity);
  return quantities.length ? `equal ${quantities.join(" and ")}` : "given";
}

/** Two columns: a mean over seeds and its interval. */
const overSeeds = (name, pick, show, hint) => [
  { name, show, hint, value: (row) => pick(row)?.mean },
  { name: "95 % interval", brief: true, hint: "Of the mean over seeds", value: (row) => ends(pick(row)?.ci95, show) },
];

/** Two columns: what base and arm have spent when both are at the worse of their two final losses. */
const spent = (unit, key, show) => [["base", "base_mean"], ["arm", "arm_mean"]].map(([name, mean]) => (
  { name: `${unit} of the ${name}`, show, value: (row) => row[key]?.[mean], hint: "Spent until the equal loss, mean over seeds" }
));

function showQuality() {
  const hasNotes = report.arms.some((arm) => arm.notes.length);
  addTable(byId("quality-table"), {
    name: "Quality of every arm",
    columns: [
      ARM,
      { name: "is", value: roleOf },
      ...overSeeds(report.objective === "masked-lm" ? "nats/masked token" : "nats/token", (arm) => arm.val_loss, loss, "Validation loss"),
      ...overSeeds("bits/byte", (arm) => arm.bits_per_byte, loss, "Of the validation text’s bytes"),
      ...(hasNotes ? [{ name: "note", value: (arm) => arm.notes.join("; ") || null }] : []),
    ],
    rows: report.arms,
  });
  addTable(byId("differences-table"), {
    name: "Differences from the base",
    columns: [
      ARM,
      { name: "loss of the base is", value: (row) => row.verdict },
      ...overSeeds(`difference, ${report.unit}`, (row) => row.difference, apart, "Base − arm; below 0 the base is better"),
      { name: "p", show: (value) => significant(value, 2), value: (row) => row.difference.p_value, hint: "Paired t-test" },
      ...overSeeds("tokens to equal loss", (row) => row.tokens_to_equal_loss, times, "Geometric; above 1 the base needs fewer tokens"),
      ...spent("tokens", "tokens_at_equal_loss", amount),
      ...overSeeds("time to equal loss", (row) => row.time_to_equal_loss, times, "Geometric; above 1 the base needs less time"),
      ...spent("seconds", "seconds_at_equal_loss", short),
    ],
    rows: report.comparisons,
  });
}

const figureColumn = (name, key, show, hint) => ({ name, show, hint, value: (arm) => arm[key] });

/** Two columns: the median round, and the slowest to the fastest. */
const overRounds = (name, key) => [
  figureColumn(name, key, (value) => short(value)),
  { name: "rounds", brief: true, hint: "The slowest to the fastest", value: (arm) => ends(arm[`${key}_range`], (value) => short(value)) },
];

function showCost() {
  addTable(byId("cost-table"), {
    name: "Cost of every arm",
    columns: [
      ARM,
      figureColumn("parameters", "params_total", whole, "All experts"),
      figureColumn("active", "params_active", whole, "Those that a token runs through"),
      figureColumn("FLOPs/token", "flops_per_token", whole, "Of training"),
      figureColumn("weights", "weight_bytes", bytes, "In float32, all experts"),
      figureColumn("most memory", "peak_memory_bytes", bytes, "Of tensors alive in training"),
      figureColumn("steps", "steps", whole),
      figureColumn("tokens", "tokens", whole, "Trained on"),
    ],
    rows: report.arms,
  });
  const batch = report.decode ? `${report.decode.batch_size} texts` : "a batch";
  addTable(byId("speed-table"), {
    name: "Speed of every arm",
    columns: [
      ARM,
      ...overSeeds("training, seconds", (arm) => arm.train_seconds, (value) => short(value), "Of the steps alone"),
      figureColumn("training, tokens/s", "train_tokens_per_s", whole),
      ...overRounds("generating one text, tokens/s", "decode_tokens_per_s"),
      ...overRounds(`generating ${batch}, tokens/s in all`, "decode_tokens_per_s_batched"),
    ],
    rows: report.arms,
  });
}

function showMatching() {
  const mismatch = (value) => withSign(value, percent(value));
  const count = (value) => (value >= 1000 ? whole(value) : written(value, { maximumSignificantDigits: 4 }));
  addTable(byId("matching-table"), {
    name: "What is matched",
    columns: [
      ARM,
      { name: "equal", value: (row) => row.quantity },
      { name: report.base, show: count, value: (row) => row.target },
      { name: "the arm", show: count, value: (row) => row.got },
      { name: "mismatch", show: mismatch, value: (row) => row.mismatch, hint: "The arm over the base, minus 1" },
      { name: "width", show: whole, value: (row) => report.arms.find((arm) => arm.name === row.arm)?.d_ff, hint: "d_ff of the twin" },
    ],
    rows: report.matches,
  });
}

function showRouting() {
  const load = (name, key, show, hint) => ({ name, show, hint, value: (arm) => arm.load[key] });
  addTable(byId("routing-table"), {
    name: "Routing of the arms that route",
    columns: [
      ARM,
      load("CV of load", "cv_load", fixed, "Standard deviation of the load over its mean; 0 is even"),
      load("MaxVio", "max_violation", fixed, "How far the busiest expert is above the even share"),
      load("dead experts", "dead_experts", short, "Experts with less than 1 % of the even share"),
      load("dropped", "dropped_fraction", percent, "Share of the chosen pairs that did not run"),
    ],
    rows: report.arms.filter((arm) => arm.load),
  });
}

function showFolders() {
  const rows = report.arms.flatMap((arm) => arm.run_dirs.map((folder, place) => ({
    name: arm.name, folder, seed: report.seeds[place], value: finalOf(arm).per_seed[place],
  })));
  addTable(byId("runs-table"), {
    name: "Runs",
    columns: [
      ARM,
      { name: "seed", show: whole, value: (row) => row.seed },
      { name: report.unit, show: loss, value: (row) => row.value },
      { name: "folder", value: (row) => row.folder },
    ],
    rows,
  });
}

const PARTS = {
  curves: showCurves, finals: showFinals, quality: showQuality, cost: showCost, matching: showMatching, routing: showRouting,
  runs: showFolders,
};

for (const [id, show] of Object.entries(PARTS)) {
  if (byId(id)) show();
}
