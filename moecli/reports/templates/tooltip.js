/* The one tooltip of the page: a title (a text, or pieces of one) and lines of name and value beside the pointer, or beside what
   has the keyboard's focus. */

function showTooltip(x, y, { title, lines, more }) {
  const box = byId("tooltip");
  box.replaceChildren(element("strong", {}, ...[title].flat()), definitions(lines));
  if (more) box.append(more);
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  const right = document.documentElement.clientWidth - width - 8;
  const below = y + 18 + height < window.innerHeight;
  box.style.left = `${Math.max(8, Math.min(x + 14, right))}px`;
  box.style.top = `${Math.max(8, below ? y + 18 : y - height - 12)}px`;
}

function hideTooltip() {
  byId("tooltip").hidden = true;
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTooltip();
});
document.addEventListener("scroll", hideTooltip, { capture: true, passive: true });
