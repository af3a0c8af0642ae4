/* Fills every part that the page has. */

const PARTS = {
  load: showLoad,
  training: showTraining,
  specialisation: showSpecialisation,
  structure: showStructure,
  cause: showCause,
  text: showText,
};

for (const [id, show] of Object.entries(PARTS)) {
  if (byId(id)) show();
}
