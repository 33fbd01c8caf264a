"use strict";
/* Draws the page from the JSON in #data. Text from files only ever becomes text: nodes and attributes, never HTML. */
const DATA = JSON.parse(document.getElementById("data").textContent);
const METRICS = Object.entries(DATA.metrics).map(([key, [name, percent]]) => ({key, name, percent}));
const SHOWN = 4;  // metrics that are shown until others are chosen
const DOMAINS = ["clean", "corrupted"], SEVERITIES = [1, 2, 3, 4, 5];
const $ = id => document.getElementById(id);

/* ---- words and numbers */
const words = text => text.replaceAll("_", " ");
const sentence = text => text.charAt(0).toUpperCase() + text.slice(1);
const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
const lossName = loss => Object.hasOwn(DATA.losses, loss) ? `${loss} (${DATA.losses[loss]})` : loss;
const noiseName = noise => `${+(100 * noise).toFixed(2)} %`;
const blockName = block => block.name + (block.demo ? " (demo)" : "");
const runName = ({algorithm, settings, loss, noise, seed}) =>
  [algorithm, ...(settings ? [settings] : []), loss, ...(noise ? [`noise ${noiseName(noise)}`] : []),
    `seed ${seed}`].join(", ");

/* As Python prints it in the tables: of two equally near the even one, where toFixed takes the larger */
function fixed(value, digits) {
  const text = value.toFixed(digits), tie = value * 2 ** (digits + 1) % 2 === 1;
  return tie && /[13579]$/.test(text) ? (value - 0.1 ** digits / 4).toFixed(digits) : text;
}

function show(metric, value) {
  if (value === null || value === undefined) return "—";
  return DATA.metrics[metric][1] ? fixed(100 * value, 1) : fixed(value, 3);
}

/* ---- elements */
/* make("td", {class: "number", onclick: f, "--part": "9%"}, "text", node, ...) */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
const th = (text, attributes = {}) => make("th", {scope: "col", ...attributes}, text);
const side = (text, attributes = {}) => th(text, {scope: "row", ...attributes});
const number = text => make("td", {class: "number"}, text);
const row = (...cells) => make("tr", {}, ...cells);
const rows = (head, body) => [make("thead", {}, row(...head)), make("tbody", {}, ...body)];

/* What may be wider than a phone scrolls by itself, by keyboard too */
const scrolling = (name, table) =>
  make("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": name}, table);

/* A labelled select in `parent`; options: [[value, text], ...]; calls changed() */
function choice(parent, text, options, changed) {
  const select = make("select", {onchange: changed}, ...options.map(([value, name]) => make("option", {value}, name)));
  parent.append(make("label", {}, text, select));
  return select;
}

function save(name, text) {
  const url = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  make("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/* ---- heading, and what is missing */
function drawHeading() {
  const sets = DATA.blocks.map(blockName).join(" · ") || "nothing evaluated yet";
  $("summary").textContent = `${count(DATA.runs.length, "run")} · ${sets}`;
  const demo = DATA.blocks.filter(block => block.demo).map(block => block.name);
  $("demo").hidden = !demo.length;
  $("demo").textContent = demo.length === DATA.blocks.length ? sentence(DATA.demo) : `${demo.join(", ")}: ${DATA.demo}`;
  const gaps = DATA.missing.length ? DATA.missing : ["Nothing."];
  $("gaps").append(...gaps.map(line => make("li", {}, line)));
}

/* ---- scores */
function drawScores() {
  const data = DATA.rows.map(one => ({...one, set: blockName(DATA.blocks[one.block])}));
  const differ = data.some(one => one.settings), noted = data.some(one => one.notes);
  const filters = [["set", "Data set", String], ["algorithm", "Algorithm", String], ["loss", "Loss", lossName],
    ["noise", "Label noise", noiseName], ...(differ ? [["settings", "Settings", text => text || "recipe"]] : []),
  ].map(([field, text, name]) => {
    const values = [...new Set(data.map(one => one[field]))];
    const select = choice($("filters"), text, [["", "all"], ...values.map((value, i) => [i, name(value)])], filter);
    return () => select.value === "" ? [] : [{field, type: "=", value: values[select.value]}];
  });
  const meanSd = metric => value => value === null ? "—" :
    show(metric, value[0]) + (value[1] === null ? "" : ` ± ${show(metric, value[1])}`);
  // Tabulator swaps a and b to sort downwards; what is missing stays last
  const byMean = (a, b, rowA, rowB, column, direction) => a === null || b === null ?
    ((a === null) - (b === null)) * (direction === "asc" ? 1 : -1) : a[0] - b[0];
  const column = (title, field, format, more) =>
    ({title, field, formatter: cell => document.createTextNode(format(cell.getValue())), ...more});
  const text = (title, field, more) => ({title, field, ...more, maxInitialWidth: innerWidth < 600 ? 125 : 190,
    formatter: cell => make("span", {title: cell.getValue()}, cell.getValue())});
  const right = {hozAlign: "right", headerHozAlign: "right"};
  const seeds = data.some(one => one.seeds > 1);  // room for a standard deviation
  const width = percent => seeds ? (percent ? 112 : 126) : 101;
  const scores = {...right, sorter: byMean, headerSortStartingDir: "desc", headerWordWrap: true};
  const table = new Tabulator("#table", {
    data, layout: "fitDataStretch", renderVertical: "basic", columnHeaderSortMulti: false,
    placeholder: data.length ? "No row fits these filters." : "No evaluated run yet.",
    columns: [
      text("algorithm", "algorithm", {frozen: true}),
      text("data set", "set", {visible: DATA.blocks.length > 1}),
      text("settings", "settings", {visible: differ}),
      text("loss", "loss"),
      column("noise", "noise", noiseName, {...right, sorter: "number"}),
      column("seeds", "seeds", String, {...right, sorter: "number"}),
      ...METRICS.flatMap(({key, name, percent}, i) => DOMAINS.map(domain =>
        column(`${name} ${domain}`, `${key}_${domain}`, meanSd(key),
          {...scores, width: width(percent), minWidth: width(percent), visible: i < SHOWN}))),
      text("notes on scoring", "notes", {visible: noted})]});

  function filter() { table.setFilter(filters.flatMap(one => one())); }

  /* Headings are reached and pressed by keyboard, and the part that scrolls has a role that a grid may hold */
  function reachable() {
    document.querySelector("#table .tabulator-tableholder").setAttribute("role", "rowgroup");
    document.querySelector("#table .tabulator-table").setAttribute("role", "presentation");
    for (const heading of document.querySelectorAll("#table .tabulator-col.tabulator-sortable")) {
      heading.tabIndex = 0;
      heading.onkeydown = event => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        heading.querySelector(".tabulator-col-content").click();
      };
    }
  }
  table.on("tableBuilt", reachable);
  table.on("dataFiltered", (_, left) => { $("count").textContent = `${left.length} of ${count(data.length, "row")}`; });
  METRICS.forEach(({key, name}, i) => {
    const box = make("input", {type: "checkbox", value: key, onchange: () => {
      for (const domain of DOMAINS) table[box.checked ? "showColumn" : "hideColumn"](`${key}_${domain}`);
      reachable();
    }});
    box.checked = i < SHOWN;
    $("metrics").append(make("label", {}, box, name));
  });
  const floors = DATA.blocks.filter(block => Object.keys(block.floors).length).map(block =>
    `${blockName(block)}, N = ${block.n}: ` + Object.entries(block.floors).map(([domain, [low, high]]) =>
      `${domain} ${show("ece", low)} to ${show("ece", high)}`).join(", "));
  if (floors.length)
    $("floors").textContent = "ECE floor, what a perfectly calibrated model scores by chance (corrupted: an upper " +
      `bound, for labels are soft there): ${floors.join("; ")}.`;
}

/* ---- corruption explorer: a place is 0 (clean) or 1 + 5 * corruption + severity - 1, as in DATA.places */
const placeName = place => place === 0 ? "Clean" :
  `${sentence(words(DATA.places[place][0]))}, severity ${DATA.places[place][1]}`;

function drawExplorer() {
  if (!DATA.blocks.length) {
    $("explorer").querySelector(".explorer").replaceChildren("No evaluated run yet.");
    return;
  }
  let place = DATA.places.findIndex(([name, severity]) => name === "glass_blur" && severity === 3), buttons = [];
  const set = choice($("choices"), "Data set", DATA.blocks.map((block, i) => [i, blockName(block)]), changeSet);
  const models = ["Model A", "Model B"].map(text => choice($("choices"), text, [], draw));
  const metric = choice($("choices"), "Grid shows", METRICS.map(({key, name}) => [key, name]), drawGrid);
  const scoresOf = run => DATA.scores.find(one => one.block === +set.value && one.run === run)?.values ?? {};

  function changeSet() {
    const runs = DATA.scores.filter(one => one.block === +set.value).map(one => one.run), [first] = runs;
    const options = () => runs.map(run => make("option", {value: run}, runName(DATA.runs[run])));
    models[0].replaceChildren(...options());
    models[1].replaceChildren(...options(), make("option", {value: ""}, "none"));
    models[1].value = runs.find(run => run !== first && ["algorithm", "pairs_with", "noise", "seed"].every(key =>
      DATA.runs[run][key] === DATA.runs[first][key])) ?? "";
    draw();
  }

  function draw() { drawGrid(); drawSamples(); }

  function drawGrid() {
    const {name: what, percent} = METRICS[metric.selectedIndex], last = 5 * DATA.corruptions.length;
    const values = scoresOf(+models[0].value)[metric.value] ?? [];
    const known = values.slice(0, last + 1).filter(value => value !== null);
    const low = Math.min(...known), high = Math.max(...known);
    const cell = (at, attributes = {}) => {
      const value = values[at] ?? null;
      const text = value === null ? "—" : percent ? fixed(100 * value, 0) : fixed(value, 2);
      const part = value === null || high === low ? 0 : 90 * (value - low) / (high - low);
      buttons[at] = make("button", {
        type: "button", tabindex: at === place ? 0 : -1, "aria-pressed": at === place, "--part": `${part.toFixed(0)}%`,
        "aria-label": `${placeName(at)}: ${what} ${text}`,
        onclick: () => choose(at), onkeydown: event => move(event, at),
      }, text);
      return make("td", attributes, buttons[at]);
    };
    $("grid").replaceChildren(...rows([th("severity"), ...SEVERITIES.map(severity => th(severity))], [
      row(side("clean"), cell(0, {colspan: 5})),
      ...DATA.corruptions.map((name, i) => row(side(words(name)), ...SEVERITIES.map(s => cell(5 * i + s))))]));
  }

  function choose(at) {
    for (const [i, button] of buttons.entries()) {
      button.setAttribute("aria-pressed", i === at);
      button.tabIndex = i === at ? 0 : -1;
    }
    place = at;
    drawSamples();
  }

  /* Arrow keys walk through the grid; clean lies above its first row */
  function move(event, at) {
    const line = Math.ceil(at / 5), s = at ? at - 5 * (line - 1) : 1;
    const to = {ArrowLeft: [line, s - 1], ArrowRight: [line, s + 1], ArrowUp: [line - 1, s], ArrowDown: [line + 1, s],
      Home: [line, 1], End: [line, 5]}[event.key];
    if (!to || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    if (to[0] < 0 || to[0] > DATA.corruptions.length || to[1] < 1 || to[1] > 5) return;
    choose(to[0] ? 5 * (to[0] - 1) + to[1] : 0);
    buttons[place].focus();
  }

  function drawSamples() {
    const block = DATA.blocks[+set.value], explorer = block.explorer, shown = METRICS.slice(0, SHOWN);
    const runs = models.map(select => select.value).filter(value => value !== "").map(Number);
    $("place").textContent = placeName(place);
    $("cell-scores").replaceChildren(scrolling("Scores of this cell", make("table", {}, ...rows(
      [th(`all ${count(block.n, "image")}`), ...shown.map(({name}) => th(name, {class: "number"}))],
      runs.map((run, i) => row(
        side(make("span", {class: `key of-${"ab"[i]}`}, `${"AB"[i]}: ${runName(DATA.runs[run])}`)),
        ...shown.map(({key}) => number(show(key, scoresOf(run)[key]?.[place])))))))));
    $("samples").replaceChildren(...(explorer ? explorer.ids.map((_, i) => drawSample(explorer, i, runs)) :
      ["The samples of this set are missing: the end of the page says why."]));
  }

  function drawSample(explorer, i, runs) {
    const given = explorer.labels[i], kind = explorer.classes[given], source = explorer.pictures[i][place];
    const columns = [["label", explorer.targets[place][i]],
      ...runs.map((run, n) => ["ab"[n], explorer.predictions[run]?.[place][i] ?? null])];
    const bar = ([hue, values], k) => make("td", {}, values === null ? "—" : make("div", {
      class: `bar of-${hue}${values[k] === Math.max(...values) ? " top" : ""}`, "--part": `${values[k] / 10}%`,
    }, fixed(values[k] / 10, 0)));
    const picture = source === null ? make("div", {class: "absent"}, "picture not in this page") : make("img", {
      src: source, class: explorer.side < 100 ? "small" : null, alt: `${kind}, ${placeName(place).toLowerCase()}`});
    return make("article", {class: "sample", "aria-label": `${kind}, ${explorer.ids[i]}`},
      make("div", {}, picture, make("p", {}, make("strong", {}, kind), explorer.ids[i])),
      make("table", {class: "bars"}, ...rows(
        [th("%"), ...columns.map(([hue]) => th(hue === "label" ? hue : hue.toUpperCase()))],
        explorer.classes.map((name, k) => row(
          side(name, {title: name, class: k === given ? "given" : null}), ...columns.map(one => bar(one, k)))))));
  }
  changeSet();
}

/* ---- reliability */
function drawReliability() {
  const blocks = DATA.blocks.filter(block => block.reliability.length), losses = Object.entries(DATA.losses);
  if (!blocks.length) {
    $("reliability").querySelector(".reliability").replaceChildren("No predictions to draw from.");
    return;
  }
  const set = choice($("diagram-choices"), "Data set", blocks.map((block, i) => [i, blockName(block)]), changeSet);
  let chart, chosen, shown;
  const find = (algorithm, domain) => losses.map(([loss]) => blocks[set.value].reliability.find(one =>
    one.algorithm === algorithm && one.domain === domain && one.loss === loss));

  function changeSet() {
    const there = blocks[set.value].reliability;
    const algorithms = [...new Set(there.map(one => one.algorithm))];
    const button = (algorithm, domain) => {
      const text = find(algorithm, domain).map(one => show("ece", one?.ece)).join(" → ");
      const look = () => draw([algorithm, domain]);
      return make("button", {
        type: "button", "data-key": JSON.stringify([algorithm, domain]),
        "aria-label": `${algorithm}, ${domain}: ECE ${text}`,
        onmouseenter: look, onfocus: look, onmouseleave: () => draw(chosen),
        onclick: () => { chosen = [algorithm, domain]; look(); },
      }, text);
    };
    $("eces").replaceChildren(
      make("caption", {class: "note"}, `ECE, ${losses.map(([, name]) => name).join(" → ")}`),
      ...rows([th("algorithm"), ...DOMAINS.map(domain => th(domain))], algorithms.map(name =>
        row(side(name), ...DOMAINS.map(domain => make("td", {}, button(name, domain)))))));
    chosen = [algorithms[0], there.some(one => one.domain === "corrupted") ? "corrupted" : "clean"];
    draw(chosen);
  }

  function draw([algorithm, domain]) {
    shown = [algorithm, domain];
    for (const button of $("eces").querySelectorAll("button"))
      button.setAttribute("aria-pressed", button.dataset.key === JSON.stringify(shown));
    const found = find(algorithm, domain);
    $("diagram-title").textContent = `${algorithm}, ${domain} images, ${blockName(blocks[set.value])}`;
    $("diagram").setAttribute("aria-label", `Reliability diagram: ${algorithm}, ${domain}. ` +
      losses.map(([, name], i) => `${name}: ECE ${show("ece", found[i]?.ece)}. `).join("") +
      "The numbers are in the table of counts per bin.");
    drawBins(found);
    chart?.destroy();
    chart = drawChart(found);
  }

  const edges = (bin, bins) => `${(bin / bins).toFixed(2)} to ${((bin + 1) / bins).toFixed(2)}`;

  function drawBins(found) {
    const bins = Math.max(...found.map(one => one?.count.length ?? 0));
    const heads = losses.flatMap(([, name]) =>
      ["count", "confidence, %", "accuracy, %"].map(what => `${name}: ${what}`));
    $("bins").replaceChildren(...rows([th("confidence"), ...heads.map(text => th(text, {class: "number"}))],
      Array.from({length: bins}, (_, bin) => row(side(edges(bin, bins)), ...found.flatMap(one => [
        one?.count[bin] ?? "—", show("ece", one?.confidence[bin]), show("ece", one?.accuracy[bin])].map(number))))));
  }

  /* Accuracy over confidence, markers as large as their share of the images, and that share below */
  function drawChart(found) {
    const style = getComputedStyle(document.documentElement);
    const colour = name => style.getPropertyValue(`--${name}`).trim();
    const datasets = found.flatMap((one, i) => {
      if (!one) return [];
      const hue = colour("ab"[i]), bins = one.count.length, total = one.count.reduce((a, b) => a + b, 0);
      const look = {one, name: losses[i][1], borderColor: hue, backgroundColor: hue};
      const points = one.count.flatMap((n, bin) => n ? [{x: one.confidence[bin], y: one.accuracy[bin], n, bin}] : []);
      const shares = one.count.map((n, bin) => ({x: (bin + .5) / bins, y: 100 * n / total, n, bin}));
      return [
        {...look, type: "line", yAxisID: "y", label: `${losses[i][1]}, ECE ${show("ece", one.ece)} %`, data: points,
          borderWidth: 1.5, borderDash: i ? [] : [5, 3], pointStyle: i ? "rect" : "circle",
          pointRadius: points.map(point => 3 + 12 * Math.sqrt(point.n / total))},
        {...look, type: "bar", label: "", yAxisID: "share", data: shares, borderWidth: 0, barThickness: "flex"}];
    });
    datasets.push({type: "line", yAxisID: "y", label: "", data: [{x: 0, y: 0}, {x: 1, y: 1}], borderWidth: 1,
      borderColor: colour("edge"), pointRadius: 0, pointHitRadius: 0});
    const axis = (text, more) => ({...more, title: {display: true, text, color: colour("soft")},
      grid: {color: colour("line"), offset: false}, border: {color: colour("edge")}, ticks: {color: colour("soft")}});
    return new Chart($("diagram"), {data: {datasets}, options: {
      animation: false, maintainAspectRatio: false, interaction: {mode: "nearest", intersect: false},
      scales: {
        x: axis("confidence", {type: "linear", min: 0, max: 1, offset: false}),
        share: axis("images, %", {stack: "y", stackWeight: 1, beginAtZero: true}),
        y: axis("accuracy", {stack: "y", stackWeight: 3, min: 0, max: 1, offset: true})},
      plugins: {
        legend: {align: "start", labels: {color: colour("ink"), usePointStyle: true, boxHeight: 7, pointStyleWidth: 12,
          filter: item => item.text !== ""}},
        tooltip: {filter: item => item.dataset.one, callbacks: {
          title: ([item]) => item?.dataset.name ?? "",
          label: ({raw: {n, bin}, dataset: {one}}) => [`bin ${edges(bin, one.count.length)}: ${count(n, "prediction")}`,
            `confidence ${show("ece", one.confidence[bin])} %, accuracy ${show("ece", one.accuracy[bin])} %`]}}}}});
  }
  changeSet();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(shown));
}

/* ---- runs */
function drawRuns() {
  $("run-list").append(...DATA.order.map(index => {
    const run = DATA.runs[index], settings = {folder: run.folder, ...run.settings};
    const details = make("details", {}, make("summary", {}, make("strong", {}, run.dataset), ` · ${runName(run)} `,
      ...run.lacks.map(what => make("span", {class: "tag"}, `(${what}) `))));
    details.addEventListener("toggle", () => details.append(scrolling(`Settings of ${runName(run)}`,
      make("table", {}, make("tbody", {}, ...Object.entries(settings).map(([key, value]) =>
        row(side(key), make("td", {}, value))))))), {once: true});
    return details;
  }));
}

/* ---- downloads */
/* Every score of every run as one tidy table; a field with a comma, a quote or a line break is quoted */
function allScores() {
  const quoted = value => /[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
  const ofBlock = ["dataset", "protocol", "image_size", "set", "set_version", "n", "precision"];
  const ofRun = ["algorithm", "loss", "noise", "settings", "seed"];
  const lines = [[...ofBlock, ...ofRun, "corruption", "severity", "metric", "value"]];
  for (const {run, block, values} of DATA.scores) {
    const keys = [...ofBlock.map(key => DATA.blocks[block][key]), ...ofRun.map(key => DATA.runs[run][key])];
    DATA.places.forEach(([corruption, severity], place) => {
      for (const [metric, column] of Object.entries(values))
        if (column[place] !== null) lines.push([...keys, corruption, severity || "", metric, column[place]]);
    });
  }
  return lines.map(line => line.map(quoted).join(",") + "\n").join("");
}

function drawDownloads() {
  const button = (name, text, title = name) =>
    make("button", {type: "button", onclick: () => save(name, text())}, title);
  $("files").append(...Object.entries(DATA.tables).map(([name, text]) => button(name, () => text)),
    button("scores.csv", allScores, "scores.csv: every score of every run"));
}

Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
drawHeading();
drawScores();
drawExplorer();
drawReliability();
drawRuns();
drawDownloads();
