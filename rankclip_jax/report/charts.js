// The charts of the run's history, drawn by uPlot. All charts share the step under the pointer.
(() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const HEIGHT = 210;
  const axisFormat = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });
  const fourDigits = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
  const legendText = (value) => (value && Math.abs(value) < 1e-3 ? value.toExponential(2) : fourDigits.format(value));
  const STYLES = {
    line: { width: 2 },
    faint: { width: 1, alpha: 0.4, points: { show: false } },
    mark: { width: 1, dash: [5, 4], points: { show: false }, spanGaps: true },
  };

  // Without a pointer on the chart the legend shows the last values.
  const legendValue = (values, format) => (plot, value, series, index) => {
    const shown = index === null ? values.findLast((each) => each !== null) : value;
    return shown == null ? "–" : format(shown);
  };

  const axis = (more) => ({
    stroke: cssColour("--muted"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: cssColour("--line"), width: 1 },
    ticks: { show: false },
    values: (plot, ticks) => ticks.map((tick) => (tick === null ? "" : axisFormat.format(tick))),
    ...more,
  });

  const range = ({ limits, fromZero }) => (plot, low, high) => {
    if (low === null) return [0, 1];
    const clipped = [Math.max(low, limits[0]), Math.min(high, limits[1])];
    const [bottom, top] = clipped[0] <= clipped[1] ? clipped : [low, high];
    const min = fromZero ? { pad: 0.06, soft: 0, mode: 1 } : { pad: 0.06 };
    return uPlot.rangeNum(bottom, top, { min, max: { pad: 0.06 } });
  };

  const make = (box) => {
    const chart = data[box.dataset.chart];
    const round = (step) => Math.round(step).toLocaleString("en");
    const steps = { label: "step", value: legendValue(chart.lines[0].steps, round) };
    const lines = chart.lines.map(({ label, kind, colour, values }) => ({
      label,
      stroke: cssColour(kind === "mark" ? "--late" : `--s${colour}`),
      value: legendValue(values, legendText),
      ...STYLES[kind],
    }));
    const options = {
      width: box.clientWidth,
      height: HEIGHT,
      cursor: { y: false, sync: { key: "step" } },
      scales: { x: { time: false }, y: chart.log ? { distr: 3 } : { range: range(chart) } },
      axes: [axis({ size: 28 }), axis({ size: 52 })],
      series: [steps, ...lines],
    };
    const tables = chart.lines.map((line) => [line.steps, line.values]);
    return new uPlot(options, uPlot.join(tables), box);
  };

  const boxes = [...document.querySelectorAll("[data-chart]")];
  const plots = new Map();
  const drawAll = () => {
    for (const box of boxes) {
      plots.get(box)?.destroy();
      plots.set(box, make(box));
    }
  };
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) plots.get(target).setSize({ width: target.clientWidth, height: HEIGHT });
  });
  const moveCursor = (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const plot = plots.get(event.currentTarget);
    const steps = plot.data[0];
    const at = Math.min(Math.max((plot.cursor.idx ?? steps.length) + move, 0), steps.length - 1);
    for (const each of plots.values()) each.setCursor({ left: each.valToPos(steps[at], "x"), top: 1 });
  };

  drawAll();
  addEventListener("themechange", drawAll);
  for (const box of boxes) {
    resized.observe(box);
    box.addEventListener("keydown", moveCursor);
  }
})();
