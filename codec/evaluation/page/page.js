"use strict";
// Curves: a system is shown or hidden in all of them.
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", shown);
    for (const one of document.querySelectorAll(`svg g[data-s="${button.dataset.s}"], tr[data-s="${button.dataset.s}"], .clip[data-s="${button.dataset.s}"]`)) {
      one.classList.toggle("off", !shown);
    }
  });
}
// Tables: a click on a heading sorts, another one turns the order round. Cells without a number come last.
for (const table of document.querySelectorAll("table.sort")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const first = head.dataset.first || "ascending", other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const key = (row) => row.cells[column].dataset.v ?? "";
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = key(a), y = key(b), way = order === "ascending" ? 1 : -1;
      if (x === "" || y === "") return (x === "") - (y === "");
      return way * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
    });
    table.tBodies[0].append(...rows);
  }));
}
// Sounds: one player. Another version of the same recording goes on where the one before was.
const player = new Audio();
let playing = null;
const urls = new Map();
const source = (clip) => {
  if (!urls.has(clip)) {
    const bytes = Uint8Array.from(atob(clip.dataset.flac), (c) => c.charCodeAt(0));
    urls.set(clip, URL.createObjectURL(new Blob([bytes], { type: "audio/flac" })));
  }
  return urls.get(clip);
};
const stop = () => { player.pause(); if (playing) { playing.classList.remove("on"); playing.setAttribute("aria-pressed", "false"); } playing = null; };
const draw = () => {
  if (!playing) return;
  playing.querySelector(".head").style.left = `${(100 * player.currentTime) / (player.duration || 1)}%`;
  requestAnimationFrame(draw);
};
for (const clip of document.querySelectorAll(".clip")) {
  clip.addEventListener("click", () => {
    const before = playing, at = player.currentTime;
    stop();
    if (before === clip) return;
    playing = clip;
    player.src = source(clip);
    player.currentTime = before && before.dataset.file === clip.dataset.file ? at : 0;
    clip.classList.add("on");
    clip.setAttribute("aria-pressed", "true");
    player.play().catch(stop);
    draw();
  });
}
player.addEventListener("ended", stop);
