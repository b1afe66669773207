"use strict";
// Base and tuned: the range says how much of the base is seen.
for (const range of document.querySelectorAll(".pair input")) {
  const stack = range.closest(".pair").querySelector(".stack");
  range.addEventListener("input", () => stack.style.setProperty("--x", range.value + "%"));
}
for (const tools of document.querySelectorAll(".tools")) {
  const place = document.getElementById(tools.dataset.of);
  const pools = [...place.children];
  const told = tools.querySelector("output");
  const find = tools.querySelector("input");
  const order = tools.querySelector("select");
  find.addEventListener("input", () => {
    const words = find.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const pool of pools) {
      const text = pool.querySelector("h3").textContent.toLowerCase();
      pool.hidden = !words.every((word) => text.includes(word));
      shown += pool.hidden ? 0 : 1;
    }
    told.textContent = shown + " of " + pools.length + " prompts";
  });
  order.addEventListener("change", () => {
    const key = order.value;
    const by = (pool) => Number(pool.dataset[key]);
    pools.sort((a, b) => (key === "place" ? by(a) - by(b) : by(b) - by(a)));
    place.append(...pools);
  });
}
