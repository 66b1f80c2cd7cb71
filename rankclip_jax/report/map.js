// The map: images on a canvas that moves and zooms. `explorer.js` controls it through `plane`.
const plane = (() => {
  const source = document.getElementById("map-data");
  const canvas = document.getElementById("plane");
  if (!source || !canvas) return null;
  const data = JSON.parse(source.textContent);
  const { images, texts } = data;
  const context = canvas.getContext("2d");
  const tip = document.getElementById("tip");
  const loading = new Image();
  let sheet = loading;
  const view = { scale: 1, x: 0, y: 0 };
  const shownGroups = new Set();
  let width = 0;
  let height = 0;
  let hovered = -1;
  let selected = { image: -1, text: -1 };
  let showTexts = false;
  let queued = false;

  const colours = () => {
    const group = data.groups.map((_, i) => cssColour(`--g${i}`));
    const [ink, muted, hit, surface] = ["--ink", "--muted", "--hit", "--surface"].map(cssColour);
    return { ink, muted, hit, surface, group };
  };
  let colour = colours();

  const margin = 26;
  const spread = () => {
    // The map is square and the canvas is not: stretch the map to the whole canvas.
    const wide = (width - 2 * margin) / data.grid;
    const high = (height - 2 * margin) / data.grid;
    return [wide, high];
  };
  const toScreen = (x, y) => {
    const [wide, high] = spread();
    return [(margin + x * wide) * view.scale + view.x, (margin + y * high) * view.scale + view.y];
  };
  const size = () => {
    const base = Math.min(30, Math.max(11, 0.8 * Math.sqrt((width * height) / images.x.length)));
    return Math.min(base * view.scale ** 0.72, 96);
  };
  const visible = (group) => shownGroups.size === 0 || shownGroups.has(group);

  const draw = () => {
    queued = false;
    const ratio = devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    for (let i = 0; i < images.x.length; i++) if (i !== hovered && i !== selected.image) drawTile(i, 1);
    if (showTexts) for (let i = 0; i < texts.x.length; i++) drawText(i, false);
    if (selected.text >= 0) drawResults(selected.text);
    if (selected.image >= 0) drawTile(selected.image, 1.9, colour.ink);
    if (hovered >= 0) drawTile(hovered, 1.6, colour.ink);
  };
  const redraw = () => {
    if (!queued) requestAnimationFrame(draw);
    queued = true;
  };

  const drawTile = (i, factor, frame) => {
    const [x, y] = toScreen(images.x[i], images.y[i]);
    const [cellHeight, cellWidth] = data.cell;
    const w = size() * factor;
    const h = (w * cellHeight) / cellWidth;
    if (x < -w || y < -h || x > width + w || y > height + h) return;
    context.globalAlpha = visible(images.group[i]) ? 1 : 0.08;
    const column = i % data.columns;
    const row = (i - column) / data.columns;
    const shade = colour.group[images.group[i]] ?? colour.muted;
    const strength = context.globalAlpha;
    context.beginPath();
    context.arc(x, y, Math.hypot(w, h) * 0.44, 0, 2 * Math.PI);
    context.globalAlpha = strength * (frame ? 1 : 0.32);
    context.fillStyle = frame ? colour.surface : shade;
    context.fill();
    context.globalAlpha = strength;
    if (frame) {
      context.lineWidth = 3;
      context.strokeStyle = frame;
      context.stroke();
    }
    context.drawImage(sheet, column * cellWidth, row * cellHeight, cellWidth, cellHeight, x - w / 2, y - h / 2, w, h);
    context.globalAlpha = 1;
  };

  const drawText = (i, strong) => {
    const [x, y] = toScreen(texts.x[i], texts.y[i]);
    if (x < 0 || y < 0 || x > width || y > height) return;
    context.globalAlpha = strong || visible(texts.group[i]) ? 1 : 0.08;
    const r = strong ? 7 : 4;
    context.beginPath();
    context.moveTo(x, y - r);
    context.lineTo(x + r, y);
    context.lineTo(x, y + r);
    context.lineTo(x - r, y);
    context.closePath();
    context.fillStyle = strong ? colour.ink : (colour.group[texts.group[i]] ?? colour.ink);
    context.strokeStyle = colour.surface;
    context.lineWidth = 1.5;
    context.fill();
    context.stroke();
    if (strong || view.scale > 4) label(texts.caption[i], x + r + 3, y);
    context.globalAlpha = 1;
  };

  const label = (words, x, y) => {
    context.font = "600 13px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.lineWidth = 4;
    context.strokeStyle = colour.surface;
    context.strokeText(words, x, y);
    context.fillStyle = colour.ink;
    context.fillText(words, x, y);
  };

  const drawResults = (text) => {
    const from = toScreen(texts.x[text], texts.y[text]);
    context.strokeStyle = colour.ink;
    context.lineWidth = 1.5;
    for (const i of texts.images[text]) {
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(...toScreen(images.x[i], images.y[i]));
      context.stroke();
    }
    for (const i of [...texts.images[text]].reverse()) {
      drawTile(i, 1.6, data.ids[i] === texts.id[text] ? colour.hit : colour.ink);
    }
    drawText(text, true);
  };

  const imageAt = (x, y) => {
    let best = -1;
    let closest = Math.max(size() * 0.75, 12) ** 2;
    for (let i = 0; i < images.x.length; i++) {
      if (!visible(images.group[i])) continue;
      const [px, py] = toScreen(images.x[i], images.y[i]);
      const away = (px - x) ** 2 + (py - y) ** 2;
      if (away < closest) [best, closest] = [i, away];
    }
    return best;
  };

  const captionOf = (i) => (images.own[i] >= 0 ? texts.caption[images.own[i]] : `image ${i}`);

  const hover = (i, x, y) => {
    if (i === hovered && i < 0) return;
    hovered = i;
    tip.hidden = i < 0;
    if (i >= 0) {
      tip.textContent = captionOf(i) + (images.rank[i] ? ` · own caption: rank ${images.rank[i].toLocaleString("en")}` : "");
      tip.style.left = `${Math.min(x + 14, width - tip.offsetWidth - 8)}px`;
      tip.style.top = `${Math.max(y - 40, 8)}px`;
    }
    redraw();
  };

  const zoom = (factor, x = width / 2, y = height / 2) => {
    const scale = factor ? Math.min(Math.max(view.scale * factor, 1), 30) : 1;
    const ratio = scale / view.scale;
    const [left, top] = factor ? [x - (x - view.x) * ratio, y - (y - view.y) * ratio] : [0, 0];
    Object.assign(view, { scale, x: left, y: top });
    keepInside();
    redraw();
  };
  const keepInside = () => {
    view.x = Math.min(0, Math.max(width * (1 - view.scale), view.x));
    view.y = Math.min(0, Math.max(height * (1 - view.scale), view.y));
  };
  const move = (dx, dy) => {
    view.x += dx;
    view.y += dy;
    keepInside();
    redraw();
  };

  const resize = () => {
    const ratio = devicePixelRatio || 1;
    [width, height] = [canvas.clientWidth, canvas.clientHeight];
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    keepInside();
    draw(); // now, because a new size clears the canvas
  };

  const select = (what) => {
    selected = { image: -1, text: -1, ...what };
    redraw();
  };

  const sprite = getComputedStyle(document.querySelector(".pic")).backgroundImage;
  loading.onload = () => {
    sheet = cutOut(loading, data.columns, data.rows, data.cell);
    resize();
  };
  loading.src = sprite.slice(5, -2);
  new ResizeObserver(resize).observe(canvas);
  const recolour = () => {
    colour = colours();
    redraw();
  };
  addEventListener("themechange", recolour);

  return {
    canvas, data, zoom, move, hover, imageAt, captionOf, select, redraw, shownGroups,
    toggleTexts: () => ((showTexts = !showTexts), redraw(), showTexts),
    scale: () => view.scale,
  };
})();
