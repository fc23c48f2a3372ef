// What the pages need of a browser beside htmx: charts, and boxes that check others.

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const numbers = new Intl.NumberFormat("en-US");
const charts = new Map();

function frame() {
  const ink = style("--muted");
  return {
    animation: false,
    textStyle: { fontFamily: style("--sans"), color: ink },
    aria: { enabled: false },
    tooltip: {
      trigger: "axis",
      axisPointer: { type: "shadow" },
      renderMode: "richText",
      backgroundColor: style("--surface"),
      borderColor: style("--strong-line"),
      borderWidth: 1,
      padding: [6, 10],
      textStyle: { color: style("--ink"), fontSize: 12 },
    },
  };
}

function axis(kind, more) {
  return {
    type: kind,
    axisLine: { show: kind === "category", lineStyle: { color: style("--strong-line") } },
    axisTick: { show: false },
    axisLabel: { color: style("--muted"), fontSize: 11 },
    splitLine: { show: kind === "value", lineStyle: { color: style("--line") } },
    ...more,
  };
}

const brief = (value) => (Math.abs(value) >= 1e6 ? `${value / 1e6}M` : Math.abs(value) >= 1e4 ? `${value / 1e3}k` : `${value}`);

function bars(data) {
  const stacked = data.kind === "stack";
  const named = data.series.length > 1;
  return {
    ...frame(),
    grid: { left: 4, right: 6, top: named ? 26 : 8, bottom: 2, containLabel: true },
    legend: named
      ? { type: "scroll", top: 0, right: 0, itemWidth: 10, itemHeight: 10, itemGap: 12, textStyle: { color: style("--muted"), fontSize: 11 } }
      : undefined,
    xAxis: axis("category", { data: data.labels }),
    yAxis: axis("value", { minInterval: 1, splitNumber: 3, axisLabel: { color: style("--muted"), fontSize: 11, formatter: brief } }),
    series: data.series.map((each) => ({
      name: each.name,
      type: data.kind === "lines" ? "line" : "bar",
      connectNulls: true,
      stack: stacked ? "all" : undefined,
      barCategoryGap: "28%",
      barMaxWidth: 34,
      showSymbol: false,
      itemStyle: { color: style(`--chart-${each.tone}`) },
      lineStyle: { color: style(`--chart-${each.tone}`), width: 2 },
      data: each.values,
    })),
  };
}

function waterfall(data) {
  const steps = data.steps;
  const low = Math.min(...steps.map((step) => Math.min(step.from, step.to)).filter((value) => value > 0));
  const high = Math.max(...steps.map((step) => Math.max(step.from, step.to)));
  const room = (high - low) * 0.16 || high * 0.05 || 1;
  const least = data.from_zero ? 0 : Math.max(0, low - room);
  return {
    ...frame(),
    tooltip: {
      ...frame().tooltip,
      formatter: (shown) => {
        const step = steps[shown[0].dataIndex];
        return `${step.name}\n${step.text} ${data.currency}`;
      },
    },
    grid: { left: 4, right: 70, top: 4, bottom: 2, containLabel: true },
    xAxis: axis("value", { min: least, max: high + room * 0.25, splitNumber: 4, axisLabel: { showMinLabel: data.from_zero, showMaxLabel: false, color: style("--muted"), fontSize: 11, formatter: (value) => numbers.format(value) } }),
    yAxis: axis("category", {
      inverse: true,
      data: steps.map((step) => step.name),
      axisLabel: { color: style("--ink"), fontSize: 12, width: Math.min(230, Math.max(96, data.width * 0.34)), overflow: "truncate" },
    }),
    series: [
      { type: "bar", stack: "all", silent: true, itemStyle: { color: "transparent" }, data: steps.map((step) => Math.min(step.from, step.to)) },
      {
        type: "bar",
        stack: "all",
        barMaxWidth: 20,
        barCategoryGap: "34%",
        label: { show: true, position: "right", color: style("--ink"), fontSize: 12, formatter: (at) => steps[at.dataIndex].text },
        data: steps.map((step) => ({ value: Math.abs(step.to - step.from), itemStyle: { color: style(`--chart-${step.tone}`) } })),
      },
    ],
  };
}

function draw(plot) {
  const source = document.getElementById(plot.dataset.chart);
  if (!source || !window.echarts) return;
  const data = JSON.parse(source.textContent);
  data.width = plot.clientWidth;
  let chart = charts.get(plot);
  if (!chart) {
    chart = window.echarts.init(plot, null, { renderer: "canvas" });
    charts.set(plot, chart);
    new ResizeObserver(() => chart.isDisposed() || chart.resize()).observe(plot);
  }
  const made = data.kind === "waterfall" ? waterfall(data) : bars(data);
  chart.setOption(made, { notMerge: true });
  plot.dataset.drawn = "yes";
}

function drawAll(within) {
  for (const [plot, chart] of charts) {
    if (!plot.isConnected) {
      chart.dispose();
      charts.delete(plot);
    }
  }
  within.querySelectorAll("[data-chart]").forEach(draw);
}

for (const query of ["(prefers-color-scheme: dark)", "print"]) {
  window.matchMedia(query).addEventListener("change", () => drawAll(document));
}
document.addEventListener("htmx:afterSettle", (event) => drawAll(event.target.parentElement ?? document));

// A box with data-checks checks all boxes of that name; a select with data-submits sends its form.
document.addEventListener("change", (event) => {
  const box = event.target;
  if (box.dataset.checks) {
    document.querySelectorAll(`input[name="${box.dataset.checks}"]`).forEach((each) => (each.checked = box.checked));
  }
  if (box.dataset.checks || box.name === "case") {
    const many = document.querySelectorAll('input[name="case"]:checked').length;
    document.querySelectorAll("[data-counts]").forEach((each) => (each.textContent = many));
  }
  if (box.dataset.submits !== undefined) box.form.requestSubmit();
});
// What was said stands where it can be seen and is read aloud.
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.target.id === "flash") event.target.scrollIntoView({ block: "nearest" });
});
drawAll(document);
