/* The figures that are one number per layer: their names, how they are written, and what they say. */

const FIGURES = [
  ["top_k", "top‑k", short, "Experts that the router chose per token"],
  ["cv_load", "CV of load", fixed, "Standard deviation of the load over its mean; 0 is even"],
  ["cv_importance", "CV of importance", fixed, "The same for the router’s probability"],
  ["max_violation", "MaxVio", fixed, "How far the busiest expert is above the even share"],
  ["max_violation_batch", "MaxVio per batch", fixed, "The same in every batch, averaged"],
  ["entropy", "entropy", fixed, "Of the load, in nats"],
  ["effective_experts", "effective experts", (value) => fixed(value, 2), "So many evenly used experts would spread the work as widely"],
  ["dead_experts", "dead", whole, "Experts with less than 1 % of the even share"],
  ["dropped_fraction", "dropped", percent, "Share of the chosen pairs that did not run"],
  ["moved_fraction", "moved", percent, "Share of the chosen pairs that ran on another expert"],
  ["confidence", "confidence", fixed, "Mean of the largest router probability"],
  ["margin", "margin", fixed, "Mean of the largest less the second largest router probability"],
];

/** Columns of a table whose rows are layers, or means over layers. */
const figureColumns = (pick = (row) => row) =>
  FIGURES.map(([key, name, show, hint]) => ({ name, show, hint, value: (row) => pick(row)[key] }));
