// Pointer, keyboard and search for the map, and the results beside it.
(() => {
  if (!plane) return;
  const { canvas, data } = plane;
  const { images, texts } = data;
  const answer = document.getElementById("answer");
  const search = document.getElementById("search");
  const suggestions = document.getElementById("suggestions");

  const element = (tag, attributes = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...children);
    return made;
  };
  const rankText = (rank) => (rank === 1 ? "✓ rank 1" : rank ? `rank ${rank.toLocaleString("en")}` : "no match");

  const tile = (i, extra = "") => {
    const column = i % data.columns;
    const row = (i - column) / data.columns;
    const button = element("button", { type: "button", className: `pic ${extra}`, title: plane.captionOf(i) });
    button.setAttribute("aria-label", plane.captionOf(i) + (extra.includes("hit") ? ", correct" : ""));
    const x = (100 * column) / Math.max(1, data.columns - 1);
    const y = (100 * row) / Math.max(1, data.rows - 1);
    button.style.backgroundPosition = `${x}% ${y}%`;
    button.addEventListener("click", () => showImage(i));
    return button;
  };

  const heading = (words, rank) => {
    const box = element("div", {}, element("p", { className: "caption", textContent: words }));
    box.append(element("p", { className: `rank ${rank === 1 ? "good" : ""}`, textContent: rankText(rank) }));
    return box;
  };

  const showImage = (i) => {
    plane.select({ image: i });
    // Bars start at the median caption, as in the examples above.
    const [best, floor] = [images.scores[i][0], images.floor[i]];
    const candidates = images.texts[i].map((m, index) => {
      const hit = texts.id[m] === data.ids[i];
      const score = images.scores[i][index];
      const bar = element("span", { className: "bar" });
      bar.style.width = `${Math.max(0, (100 * (score - floor)) / Math.max(best - floor, 1))}%`;
      const caption = element("button", { type: "button", className: "text", textContent: texts.caption[m] + (hit ? " ✓" : "") });
      caption.addEventListener("click", () => showText(m));
      const line = element("li", { className: hit ? "hit" : "" }, bar, caption);
      line.append(element("span", { className: "score", textContent: (score / 1000).toFixed(2) }));
      return line;
    });
    const head = element("div", { className: "chosen" }, tile(i, "large"), heading(plane.captionOf(i), images.rank[i]));
    const near = element("div", { className: "tiles" }, ...images.near[i].map((n) => tile(n)));
    answer.replaceChildren(
      head,
      element("div", { className: "candidates" }, element("ol", {}, ...candidates)),
      element("p", { className: "quiet-text", textContent: "Nearest images" }),
      near,
    );
  };

  const showText = (m) => {
    plane.select({ text: m });
    search.value = texts.caption[m];
    suggestions.replaceChildren();
    const correct = (n) => data.ids[n] === texts.id[m];
    const tiles = texts.images[m].map((n) => tile(n, correct(n) ? "hit" : ""));
    const own = data.ids.indexOf(texts.id[m]);
    if (own >= 0 && !texts.images[m].some(correct)) tiles.push(tile(own, "late"));
    const typed = element("p", { className: "typed" }, element("span", { textContent: texts.caption[m] }));
    const rank = element("p", { className: `rank ${texts.rank[m] === 1 ? "good" : ""}`, textContent: rankText(texts.rank[m]) });
    answer.replaceChildren(typed, rank, element("div", { className: "tiles" }, ...tiles));
  };

  const suggest = () => {
    const words = search.value.trim().toLowerCase();
    const found = [];
    if (words) {
      const order = (text) => (text.startsWith(words) ? 0 : text.includes(` ${words}`) ? 1 : 2);
      texts.caption.forEach((text, m) => text.toLowerCase().includes(words) && found.push(m));
      found.sort((a, b) => order(texts.caption[a].toLowerCase()) - order(texts.caption[b].toLowerCase()));
    }
    const buttons = found.slice(0, 8).map((m) => {
      const button = element("button", { type: "button", textContent: texts.caption[m] });
      button.addEventListener("click", () => showText(m));
      return button;
    });
    if (words && !found.length) buttons.push(element("span", { textContent: "no caption of this split contains that" }));
    suggestions.replaceChildren(...buttons);
    return found;
  };
  search.addEventListener("input", suggest);
  search.addEventListener("keydown", (event) => {
    const found = event.key === "Enter" ? suggest() : [];
    if (found.length) showText(found[0]);
  });

  const pointers = new Map();
  let moved = 0;
  const position = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, position(event));
    moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = position(event);
    const before = pointers.get(event.pointerId);
    if (!before) return plane.hover(plane.imageAt(x, y), x, y);
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    if (others.length) {
      const [ox, oy] = others[0];
      plane.zoom(Math.hypot(x - ox, y - oy) / Math.max(1, Math.hypot(before[0] - ox, before[1] - oy)), ox, oy);
    } else if (event.pointerType !== "touch" || plane.scale() > 1) {
      plane.move(x - before[0], y - before[1]);
    }
    moved += Math.hypot(x - before[0], y - before[1]);
    pointers.set(event.pointerId, [x, y]);
  });
  const release = (event) => {
    if (pointers.delete(event.pointerId) && event.type === "pointerup" && moved < 6) {
      const found = plane.imageAt(...position(event));
      if (found >= 0) showImage(found);
    }
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => plane.hover(-1));
  canvas.addEventListener("wheel", (event) => {
    // Before a click on the map, the wheel scrolls the page.
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    plane.zoom(Math.exp(-event.deltaY / 400), ...position(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = 60;
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    const zooms = { "+": 1.4, "=": 1.4, "-": 0.7, 0: 0 };
    if (event.key in moves) plane.move(...moves[event.key]);
    else if (event.key in zooms) plane.zoom(zooms[event.key]);
    else return;
    event.preventDefault();
  });

  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => plane.zoom(Number(button.dataset.zoom)));
  }
  document.getElementById("show-texts").addEventListener("click", (event) => {
    event.currentTarget.setAttribute("aria-pressed", plane.toggleTexts());
  });
  document.getElementById("method").textContent = data.method;
  data.groups.forEach((name, group) => {
    const button = element("button", { type: "button", textContent: name, className: `g${group}` });
    button.setAttribute("aria-pressed", false);
    button.addEventListener("click", () => {
      const on = !plane.shownGroups.delete(group);
      if (on) plane.shownGroups.add(group);
      button.setAttribute("aria-pressed", on);
      plane.redraw();
    });
    document.getElementById("groups").append(button);
  });
  for (const link of document.querySelectorAll("a[data-image]")) {
    link.addEventListener("click", () => showImage(Number(link.dataset.image)));
  }
  const first = document.querySelector(".lists [data-image]");
  showImage(first ? Number(first.dataset.image) : 0);
})();
