"use strict";
// Values under the pointer, in all charts of a section at the same step.
(() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const svgElement = (name, attributes = {}) => {
    // The namespace of the charts themselves, so that this page holds no address at all.
    const element = document.createElementNS(document.querySelector("svg").namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };

  const format = (value) => {
    if (value === null) return "–";
    const size = Math.abs(value);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    return size >= 10 ? value.toFixed(1) : size >= 0.01 || size === 0 ? value.toFixed(3) : value.toExponential(1);
  };

  const nearest = (steps, step) => {
    let low = 0;
    let high = steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle + 1;
      else high = middle;
    }
    return low > 0 && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
  };

  const along = ([low, high, start, end, log], value) => {
    const share = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    return start + share * (end - start);
  };

  class Chart {
    constructor(svg) {
      Object.assign(this, { svg, ...data[svg.dataset.chart] });
      this.layer = svg.appendChild(svgElement("g"));
      this.reading = svg.parentElement.querySelector(".reading");
      this.keys = svg.parentElement.querySelectorAll(".key");
    }

    stepAt(clientX) {
      const box = this.svg.getBoundingClientRect();
      const x = ((clientX - box.left) / box.width) * this.svg.viewBox.baseVal.width;
      const [low, high, start, end] = this.x;
      return low + ((Math.min(Math.max(x, start), end) - start) / (end - start)) * (high - low);
    }

    show(step) {
      const [top, bottom] = [this.y[3], this.y[2]];
      const at = this.lines.map((line) => nearest(line.steps, step));
      const x = along(this.x, this.lines[0].steps[at[0]]);
      this.layer.replaceChildren(svgElement("line", { class: "cross", x1: x, x2: x, y1: top, y2: bottom }));
      const values = this.lines.map((line, i) => line.values[at[i]]);
      this.lines.forEach((line, i) => {
        const value = values[i];
        if (value !== null) {
          const y = Math.min(Math.max(along(this.y, value), top), bottom);
          this.layer.append(svgElement("circle", { class: `dot s${i}`, cx: along(this.x, line.steps[at[i]]), cy: y, r: 3.5 }));
        }
        if (this.keys[i]) this.keys[i].dataset.value = format(value);
      });
      const at0 = `step ${Math.round(this.lines[0].steps[at[0]]).toLocaleString("en")}`;
      this.reading.textContent = this.keys.length ? at0 : `${at0} · ${format(values[0])}`;
    }

    hide() {
      this.layer.replaceChildren();
      this.reading.textContent = "";
      this.keys.forEach((key) => delete key.dataset.value);
    }
  }

  for (const section of document.querySelectorAll(".charts")) {
    const charts = [...section.querySelectorAll("svg[data-chart]")].map((svg) => new Chart(svg));
    const showAll = (step) => charts.forEach((chart) => chart.show(step));
    const hideAll = () => charts.forEach((chart) => chart.hide());
    for (const chart of charts) {
      let step = chart.x[1];
      chart.svg.addEventListener("pointermove", (event) => showAll((step = chart.stepAt(event.clientX))));
      chart.svg.addEventListener("pointerleave", hideAll);
      chart.svg.addEventListener("blur", hideAll);
      chart.svg.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!move) return;
        event.preventDefault();
        step = Math.min(Math.max(step + (move * (chart.x[1] - chart.x[0])) / 50, chart.x[0]), chart.x[1]);
        showAll(step);
      });
    }
  }

  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    dispatchEvent(new Event("themechange"));
  });
})();
