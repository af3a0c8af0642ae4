/* The report, read from the page, and the one object that holds what the reader has chosen. */

const TYPES = { int16: Int16Array, float32: Float32Array };

/** A text without what turns the direction of letters around or can't be seen, which is written out; spaces of any kind stay. */
const withoutTricks = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Cs}]/gu, (letter) => (/[\n\t\r]/.test(letter) ? letter : escaped(letter)));

function escaped(letter) {
  const code = letter.codePointAt(0).toString(16);
  return code.length > 4 ? `\\U${code.padStart(8, "0")}` : `\\u${code.padStart(4, "0")}`;
}

/** Turns a packed matrix back into a list of rows and makes texts safe to look at; everything else stays as it is. */
function unpack(_key, value) {
  if (typeof value === "string") return withoutTricks(value);
  if (value === null || typeof value !== "object" || value.matrix === undefined) return value;
  const bytes = Uint8Array.from(atob(value.matrix), (character) => character.charCodeAt(0));
  const numbers = new TYPES[value.kind](bytes.buffer);
  const rows = [];
  for (let start = 0; start < numbers.length; start += value.columns) rows.push(numbers.subarray(start, start + value.columns));
  return rows;
}

const report = JSON.parse(document.getElementById("data").textContent, unpack);

const state = {
  quantity: "load",
  checkpointFigure: "cv_load",
  saturation: "top_k",
  label: 0,
  specialisationLayer: 0,
  vocabularyLayer: 0,
  coactivationLayer: 0,
  firstFlow: 0,
  textLayer: 0,
  textExpert: null,
  over: "tokens",
  part: "later",
};
