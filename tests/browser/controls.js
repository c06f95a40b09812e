// What is wrong with the controls below `scope`: one over another, cut off, off the screen, covered, or too small to hit.
(scope) => {
  const CONTROLS = "a[href], button, input, textarea, select, summary, [role=button], [role=tab], [role=slider], [role=combobox]";
  const SMALLEST = 24; // WCAG 2.2, 2.5.8, which leaves out links in a text; a box to tick is hit by its label, too
  const IN_A_TEXT = "#chat [data-testid=bot] .prose :is(p, li, td) > a:not(.chat-bar a), input[type=range], input[type=checkbox], input[type=file]";
  const shown = (element) =>
    element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true }) && !element.closest(".skip, .heard, [inert]");
  const name = (element) => {
    const said = (element.ariaLabel || element.innerText || element.value || element.placeholder || "").trim();
    return `${element.tagName.toLowerCase()} ${JSON.stringify(said.slice(0, 30))} in #${element.closest("[id]")?.id ?? ""}`;
  };
  const wrong = new Set();

  // What is left of a box by all that it stands in; `scrolls` tells along which sides the rest can be scrolled to.
  const left = (element) => {
    const whole = element.getBoundingClientRect();
    const box = { left: whole.left, right: whole.right, top: whole.top, bottom: whole.bottom };
    const scrolls = { X: false, Y: false };
    let position = getComputedStyle(element).position;
    for (let around = element.parentElement; around && position !== "fixed"; around = around.parentElement) {
      const style = getComputedStyle(around), frame = around.getBoundingClientRect();
      position = style.position;
      if (around.matches("html, body")) break;
      for (const [axis, low, high, size] of [["X", "left", "right", "Width"], ["Y", "top", "bottom", "Height"]]) {
        const overflow = style[`overflow${axis}`];
        if (overflow === "visible") continue;
        const more = around[`scroll${size}`] > around[`client${size}`] + 1;
        if (/auto|scroll/.test(overflow) && more) scrolls[axis] = true;
        else if (!scrolls[axis] && (box[low] < frame[low] - 1.5 || box[high] > frame[high] + 1.5))
          wrong.add(`${name(element)} is cut off by ${around.tagName.toLowerCase()}.${around.className}`);
        box[low] = Math.max(box[low], frame[low]);
        box[high] = Math.min(box[high], frame[high]);
      }
    }
    const beyond = (low, high, end) => whole[low] < -1.5 || whole[high] > end + 1.5;
    if (!scrolls.X && beyond("left", "right", innerWidth)) wrong.add(`${name(element)} is beside the screen`);
    if (!scrolls.Y && beyond("top", "bottom", innerHeight)) wrong.add(`${name(element)} is above or below the screen`);
    return box;
  };

  const all = [...document.querySelector(scope).querySelectorAll(CONTROLS)]
    .filter((element) => shown(element) && element.offsetWidth > 1 && element.offsetHeight > 1)
    .map((element) => ({ element, box: left(element) }))
    .filter(({ box }) => box.right - box.left > 2 && box.bottom - box.top > 2)
    .filter(({ box }) => box.right > 0 && box.bottom > 0 && box.left < innerWidth && box.top < innerHeight);

  for (const { element, box } of all) {
    const size = element.getBoundingClientRect();
    if (Math.min(size.width, size.height) < SMALLEST - 0.5 && !element.matches(IN_A_TEXT))
      wrong.add(`${name(element)} is ${Math.round(size.width)} × ${Math.round(size.height)} px`);
    if (element.matches("button, summary, [role=tab]") && element.scrollWidth > element.clientWidth + 2 && getComputedStyle(element).overflowX !== "visible")
      wrong.add(`${name(element)} has no room for its words`);
    const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    const hit = document.elementFromPoint(x, y);
    if (hit && !element.contains(hit) && !hit.contains(element) && !hit.closest("label")?.contains(element))
      wrong.add(`${name(element)} is covered by ${hit.tagName.toLowerCase()}.${hit.className}`);
  }
  all.forEach((one, at) => {
    for (const other of all.slice(at + 1)) {
      if (one.element.contains(other.element) || other.element.contains(one.element)) continue;
      const width = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left);
      const height = Math.min(one.box.bottom, other.box.bottom) - Math.max(one.box.top, other.box.top);
      if (width > 2 && height > 2) wrong.add(`${name(one.element)} is over ${name(other.element)}`);
    }
  });
  return { seen: all.length, wrong: [...wrong] };
}
