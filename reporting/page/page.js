"use strict";
/* Draws the page from the JSON in #data, which page_data.py makes. Text from files only ever becomes text: nodes and
   attributes, never HTML. What a reader chooses is kept in the address of the page. */
const DATA = JSON.parse(document.getElementById("data").textContent);
const METRICS = Object.values(DATA.metrics);  // {name, label, percent, higher_is_better}
const SEQUENCES = DATA.sequences ?? [];  // sets of perturbation sequences, where there are some
const SHOWN = 4;  // metrics that are shown until others are chosen
const DOMAINS = ["clean", "corrupted"], SEVERITIES = [1, 2, 3, 4, 5];
const NARROW = innerWidth < 600;  // a phone
const $ = id => document.getElementById(id);

/* ---- what the reader chose, in the address: it can be sent to others */
const ADDRESS = new URLSearchParams(location.search);

function remember(key, value) {
  if (value === null) ADDRESS.delete(key);
  else ADDRESS.set(key, value);
  const query = ADDRESS.toString();
  history.replaceState(null, "", location.pathname + (query ? `?${query}` : "") + location.hash);
}

/* ---- words and numbers */
const words = text => text.replaceAll("_", " ");
const sentence = text => text.charAt(0).toUpperCase() + text.slice(1);
const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
const lossName = loss => Object.hasOwn(DATA.losses, loss) ? `${loss} (${DATA.losses[loss]})` : loss;
const noiseName = noise => `${+(100 * noise).toFixed(2)} %`;
const setName = entry => entry.set + (entry.demo ? " (demo)" : "");
const blockName = block => block.name + (block.demo ? " (demo)" : "");
const runName = ({algorithm, separating_settings: settings, loss, noise, seed}) =>
  [algorithm, ...(settings ? [settings] : []), loss, ...(noise ? [`noise ${noiseName(noise)}`] : []),
    `seed ${seed}`].join(", ");

/* As Python prints it in the tables: of two equally near the even one, where toFixed takes the larger */
function fixed(value, digits) {
  const text = value.toFixed(digits), tie = value * 2 ** (digits + 1) % 2 === 1;
  return tie && /[13579]$/.test(text) ? (value - 0.1 ** digits / 4).toFixed(digits) : text;
}

function show(metric, value) {
  if (value === null || value === undefined) return "—";
  return DATA.metrics[metric].percent ? fixed(100 * value, 1) : fixed(value, 3);
}

/* A difference, with its sign and a true minus */
function showChange(metric, value) {
  const text = show(metric, value);
  if (!Number(text)) return text.replace("-", "");  // no negative zero, and no number
  return value === null ? text : value > 0 ? `+${text}` : text.replace("-", "−");
}

const arrow = metric => metric.higher_is_better ? "↑" : "↓";

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
const rowHead = (text, attributes = {}) => th(text, {scope: "row", ...attributes});
const number = text => make("td", {class: "number"}, text);
const row = (...cells) => make("tr", {}, ...cells);
const rows = (head, body) => [make("thead", {}, row(...head)), make("tbody", {}, ...body)];

/* What may be wider than a phone scrolls by itself, by keyboard too */
const scrolling = (name, table) =>
  make("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": name}, table);

/* A labelled select in `parent`; options: [[value, text], ...]; calls changed(). The text of the chosen option is kept in
   the address, unless it is the first one. */
function choice(parent, text, options, changed) {
  const key = `${parent.id} ${text}`.toLowerCase().replaceAll(" ", "-");
  const select = make("select", {"data-key": key, onchange: () => {
    remember(key, select.selectedIndex > 0 ? select.selectedOptions[0].textContent : null);
    changed();
  }}, ...options.map(([value, name]) => make("option", {value}, name)));
  parent.append(make("label", {}, text, select));
  restore(select);
  return select;
}

/* Choose the option that the address names, where there is one */
function restore(select) {
  const wanted = ADDRESS.get(select.dataset.key);
  const option = [...select.options].find(({textContent}) => textContent === wanted);
  if (option) select.value = option.value;
}

function save(name, text) {
  const url = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  make("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/* ---- sections that have nothing to show */
/* Sections on corrupted images are left out where the page has others, for example of perturbation sequences only.
   Where nothing at all was scored they stay, and say so. */
function removeEmptySections() {
  const others = SEQUENCES.length > 0 || document.getElementById("open-set") !== null;
  const empty = [...(DATA.rankings.length || !others ? [] : ["ranking"]),
    ...(DATA.blocks.length || !others ? [] : ["scores", "explorer", "reliability"])];
  for (const name of empty) {
    $(name).remove();
    document.querySelector(`nav a[href="#${name}"]`).remove();
  }
  const first = document.querySelector("main > section"), skip = document.querySelector("a.skip");
  skip.setAttribute("href", `#${first.id}`);
  if (empty.includes("ranking")) skip.textContent = `Skip to the section ${first.querySelector("h2").textContent.split(":")[0]}`;
}

/* ---- heading, and what is missing */
function drawHeading() {
  const ofRuns = [...DATA.blocks.map(blockName), ...SEQUENCES.map(setName)], ofCards = DATA.rankings.map(({set}) => set);
  const sets = (ofRuns.length ? ofRuns : ofCards).join(" · ") || "nothing evaluated yet";
  const cards = [...DATA.rankings, ...SEQUENCES].flatMap(({lines}) => lines).filter(({kind}) => kind === "card").length;
  $("summary").textContent = [count(DATA.runs.length, "run"), ...(cards ? [count(cards, "card")] : []), sets].join(" · ");
  const demo = [...DATA.blocks.filter(block => block.demo).map(block => block.name),
    ...SEQUENCES.filter(entry => entry.demo).map(entry => entry.set)];
  $("demo").hidden = !demo.length;
  $("demo").textContent = demo.length === DATA.blocks.length + SEQUENCES.length ? sentence(DATA.demo) : `${demo.join(", ")}: ${DATA.demo}`;
  const gaps = DATA.missing.length ? DATA.missing : ["Nothing."];
  $("gaps").append(...gaps.map(line => make("li", {}, line)));
}

/* ---- ranking */
/* Cells and words of the set without the corruptions whose soft labels contradict what can be seen; FER-C's by default */
const leftOf = ranking => ranking.left ?? [70, "brightness, contrast and snow"];
const RANKED_COLUMNS = [
  ["nll", "NLL", "nll"], ["change", "change", null], ["accuracy", "accuracy", "accuracy"],
  ["ece", "ECE soft labels", "ece"], ["ece_hard", "ECE hard labels", "ece"], ["ece_without", "ECE left cells", "ece"],
  ["brier", "Brier score", "brier"]];

function drawRanking() {
  if (!$("ranking")) return;
  if (!DATA.rankings.length) {
    $("ranking").querySelector(".stability").remove();
    $("ranking-table").textContent = "Nothing to rank yet.";
    return;
  }
  const set = choice($("ranking-choices"), "Ranking on",
    DATA.rankings.map((ranking, i) => [i, ranking.set + (ranking.demo ? " (demo)" : "")]), changeSet);
  const search = make("input", {type: "search", oninput: () => { remember("model", search.value || null); filter(); }});
  search.value = ADDRESS.get("model") ?? "";
  $("ranking-choices").append(make("label", {}, "Search models and notes", search));
  let table;

  function changeSet() {
    const ranking = DATA.rankings[set.value];
    $("ranking-title").textContent = `Ranking: ${ranking.label} on corrupted images`;
    $("ranking-sentences").replaceChildren(...ranking.sentences.map(text => make("li", {}, text)));
    const [cells, changed] = leftOf(ranking);
    $("left-cells").textContent = `${cells} cells: without ${changed}`;
    $("stability-sentences").replaceChildren(...ranking.stability.map(text => make("li", {}, text)));
    drawRanks(ranking);
    table?.destroy();
    table = rankingTable(ranking);
    table.on("tableBuilt", () => { reachableTable("ranking-table"); filter(); });
    table.on("dataFiltered", (_, rows) => {
      const shown = rows.length;
      $("ranking-count").textContent = `${shown} of ${count(ranking.lines.length, "line")}`;
    });
  }

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    table.setFilter(line => `${line.model} ${line.notes}`.toLowerCase().includes(wanted));
  }
  changeSet();
}

/* The lines of a ranking in groups by section. On a phone the model and the score that ranks are in sight. */
function rankingTable(ranking) {
  const best = bestOfSections(ranking);
  const first = ranking.metric, columns = [...RANKED_COLUMNS].sort((a, b) => (b[0] === first) - (a[0] === first));
  const modelCell = cell => {
    const line = cell.getData(), place = make("span", {class: "place"}, line.rank ?? "–");
    const name = make("span", {class: line.kind === "reference" ? "reference" : null, title: line.model}, line.model);
    const marks = line.alarms ? [" ", make("span", {class: "alarm", title: line.notes}, "alarm")] : [];
    return make("div", {class: "two-lines"}, place, name, ...marks);
  };
  const scoreCell = (key, metric) => cell => {
    const value = cell.getValue(), line = cell.getData();
    const text = key === "change" ? showChange(first, value) : show(metric, value);
    return best.get(`${line.section} ${key}`) === text && line.kind !== "reference" ?
      make("strong", {class: "best", title: "best of its section"}, text) : document.createTextNode(text);
  };
  const notesCell = cell => {
    const {notes, link} = cell.getData(), parts = [notes];
    if (link && /^https?:\/\//.test(link)) parts.push(notes ? "; " : "", make("a", {href: link, rel: "noreferrer"}, link));
    return make("span", {class: "two-lines", title: notes}, ...parts);
  };
  const missingLast = (a, b, rowA, rowB, column, direction) => a === null || b === null ?
    ((a === null) - (b === null)) * (direction === "asc" ? 1 : -1) : a - b;
  return new Tabulator("#ranking-table", {
    data: ranking.lines.map((line, order) => ({...line, order})), layout: "fitDataStretch", renderVertical: "basic",
    columnHeaderSortMulti: false, placeholder: "No model fits this search.", groupBy: "section",
    groupToggleElement: false, groupHeader: value => document.createTextNode(ranking.sections[value]),
    columns: [
      {title: "model", field: "model", frozen: true, formatter: modelCell, width: NARROW ? 172 : 290, headerWordWrap: true},
      ...columns.map(([key, title, metric]) => ({
        title: metric ? `${title.replace("left", leftOf(ranking)[0])}\u00a0${arrow(DATA.metrics[metric])}` : title, field: key, hozAlign: "right",
        headerHozAlign: "right", headerWordWrap: true, sorter: missingLast, formatter: scoreCell(key, metric),
        headerSortStartingDir: metric === "accuracy" ? "desc" : "asc", width: 106, minWidth: 90})),
      {title: "seeds", field: "seeds", hozAlign: "right", headerHozAlign: "right", sorter: "number",
        formatter: cell => document.createTextNode(cell.getValue() || "—")},
      {title: "notes", field: "notes", formatter: notesCell, minWidth: NARROW ? 300 : 560, variableHeight: true}]});
}

/* The best printed value of every column in every section, references left out; the change has none */
function bestOfSections(ranking) {
  const best = new Map();
  ranking.sections.forEach((_, section) => {
    const lines = ranking.lines.filter(line => line.section === section && line.kind !== "reference");
    for (const [key, , name] of RANKED_COLUMNS) {
      const values = lines.map(line => line[key]).filter(value => value !== null);
      if (name === null || values.length < 2) continue;
      const extreme = DATA.metrics[name].higher_is_better ? Math.max(...values) : Math.min(...values);
      best.set(`${section} ${key}`, show(name, extreme));
    }
  });
  return best;
}

/* Ranks under other labels, with their intervals, and errors */
function drawRanks(ranking) {
  const columns = [["rank_soft", "soft"], ["rank_hard", "hard"], ["rank_votes", "votes"], ["rank_without", `${leftOf(ranking)[0]} cells`]]
    .filter(([key]) => ranking.lines.some(line => (line[key] ?? null) !== null));
  const errors = [["mean_ce", "mCE, %"], ["mean_relative_ce", "relative mCE, %"], ["mean_error", "mean error, %"],
    ["self_relative", "self-relative, %"]].filter(([key]) => ranking.lines.some(line => line[key] !== null));
  const percent = value => value === null || value === undefined ? "—" : fixed(100 * value, 1);
  const hasIntervals = ranking.lines.some(line => line.interval);
  $("ranks").replaceChildren(...rows(
    [th("model"), ...columns.map(([, name]) => th(`rank, ${name}`, {class: "number"})),
      ...(hasIntervals ? [th("95 % of rank", {class: "number"})] : []),
      ...errors.map(([, name]) => th(name, {class: "number"}))],
    ranking.lines.map(line => row(rowHead(line.model, {title: line.model}),
      ...columns.map(([key]) => number(line[key] ?? "—")),
      ...(hasIntervals ? [number(line.interval ? line.interval.join(" to ") : "—")] : []),
      ...errors.map(([key]) => number(percent(line[key])))))));
}

/* ---- scores */
function drawScores() {
  if (!$("scores")) return;
  const data = DATA.rows.map(withChanges);
  const hasSettings = data.some(entry => entry.settings), hasNotes = data.some(entry => entry.notes);
  const hasNoise = data.some(entry => entry.noise);
  const best = bestValues(data);
  const chosen = (ADDRESS.get("metrics") ?? METRICS.slice(0, SHOWN).map(({name}) => name).join(",")).split(",");

  const filters = [
    filterChoice("set", "Set", String), filterChoice("algorithm", "Algorithm", String),
    filterChoice("loss", "Loss", lossName), filterChoice("noise", "Label noise", noiseName)];
  if (hasSettings) filters.push(filterChoice("settings", "Settings", text => text || "usual settings"));

  /* A select of the values of a column; returns a function that gives its filter for Tabulator */
  function filterChoice(field, text, nameOf) {
    const values = [...new Set(data.map(entry => entry[field]))];
    const options = [["", "all"], ...values.map((value, i) => [i, nameOf(value)])];
    const select = choice($("filters"), text, options, filter);
    return () => select.value === "" ? [] : [{field, type: "=", value: values[select.value]}];
  }

  const column = (title, field, format, more) =>
    ({title, field, formatter: cell => document.createTextNode(format(cell.getValue())), ...more});
  const text = (title, field, more) => ({title, field, ...more, maxInitialWidth: NARROW ? 140 : 190,
    formatter: cell => make("span", {title: cell.getValue()}, cell.getValue())});
  const right = {hozAlign: "right", headerHozAlign: "right"};
  const hasDeviations = data.some(entry => entry.seeds > 1);

  /* On a phone the loss stands below the algorithm, so that one score is in sight */
  function algorithmCell(cell) {
    const {algorithm, loss, set, settings} = cell.getData();
    const below = [loss, ...(settings ? [settings] : []), ...(DATA.blocks.length > 1 ? [set] : [])].join(", ");
    return NARROW ? make("div", {class: "two-lines"}, algorithm, make("small", {}, below)) :
      make("span", {title: algorithm}, algorithm);
  }

  function scoreCell(metric, field) {
    return cell => {
      const value = cell.getValue(), {block, noise} = cell.getData();
      if (value === null) return document.createTextNode("—");
      const printed = show(metric.name, value[0]);
      const text = printed + (value[1] === null ? "" : ` ± ${show(metric.name, value[1])}`);
      return best.get(`${block} ${noise} ${field}`) === printed ?
        make("strong", {class: "best", title: "best of its set and label noise"}, text) : document.createTextNode(text);
    };
  }

  const scoreColumn = (metric, domain) => column(`${metric.label}\u00a0${arrow(metric)} ${domain}`, `${metric.name}_${domain}`,
    null, {...right, sorter: byMean, headerSortStartingDir: "desc", headerWordWrap: true,
      formatter: scoreCell(metric, `${metric.name}_${domain}`), visible: chosen.includes(metric.name),
      width: hasDeviations ? (metric.percent ? 112 : 142) : 101, minWidth: 95});
  const changeColumn = metric => column(`${metric.label} change`, `${metric.name}_change`,
    value => value === null ? "—" : showChange(metric.name, value[0]), {...right, sorter: byMean, headerWordWrap: true,
      headerSortStartingDir: "desc", visible: chosen.includes(metric.name), width: 96, minWidth: 90});
  const table = new Tabulator("#table", {
    data, layout: "fitDataStretch", renderVertical: "basic", columnHeaderSortMulti: false,
    placeholder: data.length ? "No row fits these filters." : "No evaluated run yet.",
    initialSort: [{column: "set", dir: "asc"}, {column: `${DATA.ranked_by}_corrupted`, dir: "asc"}],
    columns: [
      {...text("algorithm", "algorithm", {frozen: true}), formatter: algorithmCell},
      text("set", "set", {visible: DATA.blocks.length > 1 && !NARROW}),
      text("settings", "settings", {visible: hasSettings && !NARROW}),
      text("loss", "loss", {visible: !NARROW}),
      column("noise", "noise", noiseName, {...right, sorter: "number", visible: hasNoise}),
      ...METRICS.map(metric => scoreColumn(metric, "corrupted")),
      ...METRICS.map(metric => scoreColumn(metric, "clean")),
      ...METRICS.map(changeColumn),
      column("seeds", "seeds", String, {...right, sorter: "number"}),
      text("notes on scoring", "notes", {visible: hasNotes})]});

  function filter() { table.setFilter(filters.flatMap(filterOf => filterOf())); }

  table.on("tableBuilt", () => { reachableTable("table"); filter(); });
  table.on("dataFiltered", (_, rows) => { $("count").textContent = `${rows.length} of ${count(data.length, "row")}`; });
  drawMetricChips();

  function drawMetricChips() {
    const boxes = METRICS.map(({name, label}) => {
      const box = make("input", {type: "checkbox", value: name, onchange: () => {
        for (const part of [...DOMAINS, "change"]) table[box.checked ? "showColumn" : "hideColumn"](`${name}_${part}`);
        remember("metrics", boxes.filter(({checked}) => checked).map(({value}) => value).join(","));
        reachableTable("table");
      }});
      box.checked = chosen.includes(name);
      $("metrics").append(make("label", {}, box, label));
      return box;
    });
  }
  const suites = [...new Set(DATA.blocks.map(block => corruptionsOf(block).length))];
  const corruptions = suites[0] ?? DATA.corruptions.length;
  $("all-cells").textContent = suites.length > 1 ? "all cells, each corruption at 5 severities" :
    `the ${5 * corruptions} cells, ${corruptions} corruptions at 5 severities`;
  drawFloors();
}

/* Headings of a Tabulator are reached and pressed by keyboard, and the part that scrolls has a role that a grid may
   hold */
function reachableTable(id) {
  document.querySelector(`#${id} .tabulator-tableholder`).setAttribute("role", "rowgroup");
  document.querySelector(`#${id} .tabulator-table`).setAttribute("role", "presentation");
  for (const heading of document.querySelectorAll(`#${id} .tabulator-col.tabulator-sortable`)) {
    heading.tabIndex = 0;
    heading.onkeydown = event => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      heading.querySelector(".tabulator-col-content").click();
    };
  }
}

/* A row with the name of its set, and for every metric the change from clean to corrupted images */
function withChanges(row) {
  const changes = METRICS.map(({name}) => {
    const clean = row[`${name}_clean`], corrupted = row[`${name}_corrupted`];
    return [`${name}_change`, clean && corrupted ? [corrupted[0] - clean[0], null] : null];
  });
  return {...row, set: blockName(DATA.blocks[row.block]), ...Object.fromEntries(changes)};
}

/* The best printed value of every column among the rows of one set and label noise, where there are several */
function bestValues(data) {
  const best = new Map();
  for (const metric of METRICS) for (const domain of DOMAINS) {
    const field = `${metric.name}_${domain}`, groups = new Map();
    for (const row of data) {
      const key = `${row.block} ${row.noise} ${field}`;
      if (row[field] !== null) groups.set(key, [...groups.get(key) ?? [], row[field][0]]);
    }
    for (const [key, values] of groups) {
      const extreme = metric.higher_is_better ? Math.max(...values) : Math.min(...values);
      if (values.length > 1) best.set(key, show(metric.name, extreme));
    }
  }
  return best;
}

/* Sorts [mean, deviation] by the mean. Tabulator swaps a and b to sort downwards; what is missing stays last. */
function byMean(a, b, rowA, rowB, column, direction) {
  if (a === null || b === null) return ((a === null) - (b === null)) * (direction === "asc" ? 1 : -1);
  return a[0] - b[0];
}

function drawFloors() {
  const floors = DATA.blocks.filter(block => Object.keys(block.floors).length).map(block =>
    `${blockName(block)}, N = ${block.n}: ` + Object.entries(block.floors).map(([domain, [low, high]]) =>
      `${domain} ${show("ece", low)} to ${show("ece", high)}`).join(", "));
  if (floors.length)
    $("floors").textContent = "ECE floor: what a perfectly calibrated model scores by chance with this number of " +
      `images, in percent (corrupted: an upper bound, because the labels are soft): ${floors.join("; ")}.`;
}

/* ---- corruption explorer: a place is 0 (clean) or 1 + 5 * corruption + severity - 1, as in placesOf(block) */
const corruptionsOf = block => block.corruptions ?? DATA.corruptions;
const placesOf = block => block.places ?? DATA.places;

function drawExplorer() {
  if (!$("explorer")) return;
  if (!DATA.blocks.length) {
    $("explorer").querySelector(".explorer").replaceChildren("No evaluated run yet.");
    return;
  }
  let chosen = ["glass_blur", 3], place = 0, buttons = [];
  const set = choice($("choices"), "Set", DATA.blocks.map((block, i) => [i, blockName(block)]), changeSet);
  const models = ["Model A", "Model B"].map(text => choice($("choices"), text, [], draw));
  const metric = choice($("choices"), "Grid shows", METRICS.map(({name, label}) => [name, label]), drawGrid);
  const block = () => DATA.blocks[set.value];
  const placeName = at => at === 0 ? "Clean" :
    `${sentence(words(placesOf(block())[at][0]))}, severity ${placesOf(block())[at][1]}`;
  const scoresOf = run => DATA.scores.find(entry => entry.block === +set.value && entry.run === run)?.values ?? {};

  function changeSet() {
    const runs = DATA.scores.filter(entry => entry.block === +set.value).map(entry => entry.run), [first] = runs;
    const options = () => runs.map(run => make("option", {value: run}, runName(DATA.runs[run])));
    models[0].replaceChildren(...options());
    models[1].replaceChildren(...options(), make("option", {value: ""}, "none"));
    models[1].value = runs.find(run => run !== first && ["algorithm", "pairs_with", "noise", "seed"].every(key =>
      DATA.runs[run][key] === DATA.runs[first][key])) ?? "";
    models.forEach(restore);
    place = placesOf(block()).findIndex(([name, severity]) => name === chosen[0] && severity === chosen[1]);
    if (place < 0) place = 3;  // another set has another corruption first
    draw();
  }

  function draw() { drawGrid(); drawSamples(); }

  function drawGrid() {
    const {label, percent} = METRICS[metric.selectedIndex], last = 5 * corruptionsOf(block()).length;
    const values = scoresOf(+models[0].value)[metric.value] ?? [];
    buttons = [];
    const known = values.slice(0, last + 1).filter(value => value !== null);
    const low = Math.min(...known), high = Math.max(...known);
    const cell = (at, attributes = {}) => {
      const value = values[at] ?? null;
      const text = value === null ? "—" : percent ? fixed(100 * value, 0) : fixed(value, 2);
      const part = value === null || high === low ? 0 : 90 * (value - low) / (high - low);
      buttons[at] = make("button", {
        type: "button", tabindex: at === place ? 0 : -1, "aria-pressed": at === place, "--part": `${part.toFixed(0)}%`,
        "aria-label": `${placeName(at)}: ${label} ${text}`,
        onclick: () => choose(at), onkeydown: event => move(event, at),
      }, text);
      return make("td", attributes, buttons[at]);
    };
    $("grid").replaceChildren(...rows([th("severity"), ...SEVERITIES.map(severity => th(severity))], [
      row(rowHead("clean"), cell(0, {colspan: 5})),
      ...corruptionsOf(block()).map((name, i) => row(rowHead(words(name)), ...SEVERITIES.map(s => cell(5 * i + s))))]));
  }

  function choose(at) {
    for (const [i, button] of buttons.entries()) {
      button.setAttribute("aria-pressed", i === at);
      button.tabIndex = i === at ? 0 : -1;
    }
    place = at;
    chosen = placesOf(block())[at];
    drawSamples();
  }

  /* Arrow keys walk through the grid; clean lies above its first row */
  function move(event, at) {
    const line = Math.ceil(at / 5), s = at ? at - 5 * (line - 1) : 1;
    const to = {ArrowLeft: [line, s - 1], ArrowRight: [line, s + 1], ArrowUp: [line - 1, s], ArrowDown: [line + 1, s],
      Home: [line, 1], End: [line, 5]}[event.key];
    if (!to || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    if (to[0] < 0 || to[0] > corruptionsOf(block()).length || to[1] < 1 || to[1] > 5) return;
    choose(to[0] ? 5 * (to[0] - 1) + to[1] : 0);
    buttons[place].focus();
  }

  function drawSamples() {
    const block = DATA.blocks[+set.value], explorer = block.explorer, shown = METRICS.slice(0, SHOWN);
    const runs = models.map(select => select.value).filter(value => value !== "").map(Number);
    $("place").textContent = placeName(place);
    $("cell-scores").replaceChildren(scrolling("Scores of this cell", make("table", {}, ...rows(
      [th(`all ${count(block.n, "image")}`), ...shown.map(metric => th(`${metric.label} ${arrow(metric)}`, {class: "number"}))],
      runs.map((run, i) => row(
        rowHead(make("span", {class: `key of-${"ab"[i]}`}, `${"AB"[i]}: ${runName(DATA.runs[run])}`)),
        ...shown.map(({name}) => number(show(name, scoresOf(run)[name]?.[place])))))))));
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
          rowHead(name, {title: name, class: k === given ? "given" : null}), ...columns.map(values => bar(values, k)))))));
  }
  changeSet();
}

/* ---- stability over perturbation sequences */
function drawStability() {
  if (!SEQUENCES.length) {
    $("stability").remove();
    document.querySelector('nav a[href="#stability"]').remove();
    return;
  }
  const parent = $("sequence-choices");
  const set = choice(parent, "Sequences of", SEQUENCES.map((entry, i) => [i, setName(entry)]), changeSet);
  const place = choice(parent, "Perturbation", [], draw), method = choice(parent, "Probabilities", [], draw);
  const search = make("input", {type: "search", oninput: () => { remember("sequence-model", search.value || null); filter(); }});
  search.value = ADDRESS.get("sequence-model") ?? "";
  parent.append(make("label", {}, "Search models and notes", search));
  let table;

  function changeSet() {
    const entry = SEQUENCES[set.value], option = ([value, name]) => make("option", {value}, name);
    place.replaceChildren(...entry.perturbations.map(name => option([name, name === "mean" ? "mean of all" : words(name)])));
    method.replaceChildren(...Object.entries({softmax: "raw", temperature: "after a temperature"}).map(option));
    [place, method].forEach(restore);
    $("sequence-sentences").replaceChildren(...entry.sentences.map(text => make("li", {}, text)));
    drawDifferences(entry);
    draw();
  }

  function draw() {
    const entry = SEQUENCES[set.value];
    table?.destroy();
    table = stabilityTable(entry, place.value, method.value);
    table.on("tableBuilt", () => { reachableTable("sequence-table"); filter(); });
    table.on("dataFiltered", (_, rows) => {
      $("sequence-count").textContent = `${rows.length} of ${count(entry.lines.length, "model")}`;
    });
  }

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    table.setFilter(line => `${line.model} ${line.notes}`.toLowerCase().includes(wanted));
  }
  changeSet();
}

/* A number of sequences: [mean, deviation]; the rate is in percent of the baseline's */
const RATE = {key: "flip_rate", label: "flip rate", percent: true, higher_is_better: false};
const showMeasure = (measure, value) => fixed(measure.percent ? 100 * value : value, measure.percent ? 1 : 2);
const showPair = (measure, pair) => pair === null || pair === undefined ? "—" :
  showMeasure(measure, pair[0]) + (pair[1] === null ? "" : ` ± ${showMeasure(measure, pair[1])}`);

/* The models on a set of sequences, in groups by section. A constant model is never the best. */
function stabilityTable(entry, place, method) {
  const measures = entry.measures.filter(measure => !measure.by_temperature || measure.method === method);
  if (entry.has_rates) measures.splice(2, 0, RATE);
  const data = entry.lines.map(line => ({...line, ...line.values[place]}));
  const best = new Map();
  entry.sections.forEach((_, section) => {
    const lines = data.filter(line => line.section === section && !line.constant);
    for (const {key, ...measure} of measures) {
      const values = lines.map(line => line[key]).filter(pair => pair).map(([mean]) => mean);
      if (values.length > 1)
        best.set(`${section} ${key}`, showMeasure(measure, measure.higher_is_better ? Math.max(...values) : Math.min(...values)));
    }
  });
  const numberCell = measure => cell => {
    const pair = cell.getValue(), text = showPair(measure, pair), {section, constant} = cell.getData();
    return pair && !constant && best.get(`${section} ${measure.key}`) === showMeasure(measure, pair[0]) ?
      make("strong", {class: "best", title: "best of its section"}, text) : document.createTextNode(text);
  };
  const textCell = cell => make("span", {class: "two-lines", title: cell.getValue()}, cell.getValue());
  const missingLast = (a, b, rowA, rowB, column, direction) => byMean(a ?? null, b ?? null, rowA, rowB, column, direction);
  return new Tabulator("#sequence-table", {
    data, layout: "fitDataStretch", renderVertical: "basic", columnHeaderSortMulti: false,
    placeholder: "No model fits this search.", groupBy: "section", groupToggleElement: false,
    groupHeader: value => document.createTextNode(entry.sections[value]),
    columns: [
      {title: "model", field: "model", frozen: true, formatter: textCell, width: NARROW ? 172 : 290, headerWordWrap: true},
      ...measures.map(measure => ({
        title: `${measure.label}\u00a0${arrow(measure)}`, field: measure.key, hozAlign: "right", headerHozAlign: "right",
        headerWordWrap: true, sorter: missingLast, formatter: numberCell(measure),
        headerSortStartingDir: measure.higher_is_better ? "desc" : "asc", width: 122, minWidth: 90})),
      {title: "seeds", field: "seeds", hozAlign: "right", headerHozAlign: "right", sorter: "number",
        formatter: cell => document.createTextNode(cell.getValue() || "—")},
      {title: "notes", field: "notes", formatter: textCell, minWidth: NARROW ? 300 : 260, variableHeight: true}]});
}

/* Calibrated minus uncalibrated, with intervals; bold where these leave 0 out */
function drawDifferences(entry) {
  $("flicker").hidden = !entry.differences.length;
  const signed = (measure, value) => (value > 0 ? "+" : "") + showMeasure(measure, value).replace("-", "−");
  const name = measure => measure.label + (measure.by_temperature ? `, ${entry.methods[measure.method]}` : "");
  const cell = (measure, values) => {
    if (!values) return number("—");
    const [difference, low, high] = values, ends = `[${signed(measure, low)}, ${signed(measure, high)}]`;
    const text = `${signed(measure, difference)} ${ends}`;
    return low > 0 || high < 0 ? make("td", {class: "number"}, make("strong", {}, text)) : number(text);
  };
  const measures = entry.measures.filter(({key}) => entry.differences.some(({numbers}) => key in numbers));
  $("differences").replaceChildren(...rows(
    [th("algorithm"), ...measures.map(measure => th(name(measure), {class: "number"})), th("seeds", {class: "number"})],
    entry.differences.map(one => row(rowHead(one.name + (one.block ? ` (${one.block})` : "")),
      ...measures.map(measure => cell(measure, one.numbers[measure.key])), number(one.seeds)))));
}

/* ---- reliability */
function drawReliability() {
  if (!$("reliability")) return;
  const blocks = DATA.blocks.filter(block => block.reliability.length), losses = Object.entries(DATA.losses);
  if (!blocks.length) {
    $("reliability").querySelector(".reliability").replaceChildren("No predictions to draw from.");
    return;
  }
  const set = choice($("diagram-choices"), "Set", blocks.map((block, i) => [i, blockName(block)]), changeSet);
  let chart, chosen, shown;
  const find = (algorithm, domain) => losses.map(([loss]) => blocks[set.value].reliability.find(entry =>
    entry.algorithm === algorithm && entry.domain === domain && entry.loss === loss));

  function changeSet() {
    const diagrams = blocks[set.value].reliability;
    $("pooled-cells").textContent = `all ${5 * corruptionsOf(blocks[set.value]).length} cells`;
    const algorithms = [...new Set(diagrams.map(entry => entry.algorithm))];
    const button = (algorithm, domain) => {
      const text = find(algorithm, domain).map(entry => show("ece", entry?.ece)).join(" → ");
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
        row(rowHead(name), ...DOMAINS.map(domain => make("td", {}, button(name, domain)))))));
    chosen = [algorithms[0], diagrams.some(entry => entry.domain === "corrupted") ? "corrupted" : "clean"];
    draw(chosen);
  }

  function draw([algorithm, domain]) {
    shown = [algorithm, domain];
    for (const button of $("eces").querySelectorAll("button"))
      button.setAttribute("aria-pressed", button.dataset.key === JSON.stringify(shown));
    const pair = find(algorithm, domain);
    $("diagram-title").textContent = `${algorithm}, ${domain} images, ${blockName(blocks[set.value])}`;
    $("diagram").setAttribute("aria-label", `Reliability diagram: ${algorithm}, ${domain}. ` +
      losses.map(([, name], i) => `${name}: ECE ${show("ece", pair[i]?.ece)}. `).join("") +
      "The numbers are in the table of counts per bin.");
    drawBins(pair);
    chart?.destroy();
    chart = drawChart(pair);
  }

  const edges = (bin, bins) => `${(bin / bins).toFixed(2)} to ${((bin + 1) / bins).toFixed(2)}`;

  function drawBins(pair) {
    const bins = Math.max(...pair.map(entry => entry?.count.length ?? 0));
    const heads = losses.flatMap(([, name]) =>
      ["count", "confidence, %", "accuracy, %"].map(what => `${name}: ${what}`));
    $("bins").replaceChildren(...rows([th("confidence"), ...heads.map(text => th(text, {class: "number"}))],
      Array.from({length: bins}, (_, bin) => row(rowHead(edges(bin, bins)), ...pair.flatMap(entry => [
        entry?.count[bin] ?? "—", show("ece", entry?.confidence[bin]), show("ece", entry?.accuracy[bin])].map(number))))));
  }

  /* Accuracy over confidence, markers as large as their fraction of the images; that fraction below */
  function drawChart(pair) {
    const style = getComputedStyle(document.documentElement);
    const colour = name => style.getPropertyValue(`--${name}`).trim();
    const datasets = pair.flatMap((diagram, i) => {
      if (!diagram) return [];
      const hue = colour("ab"[i]), bins = diagram.count.length, total = diagram.count.reduce((a, b) => a + b, 0);
      const look = {diagram, name: losses[i][1], borderColor: hue, backgroundColor: hue};
      const points = diagram.count.flatMap((n, bin) => n ? [{x: diagram.confidence[bin], y: diagram.accuracy[bin], n, bin}] : []);
      const fractions = diagram.count.map((n, bin) => ({x: (bin + .5) / bins, y: 100 * n / total, n, bin}));
      return [
        {...look, type: "line", yAxisID: "y", label: `${losses[i][1]}, ECE ${show("ece", diagram.ece)} %`, data: points,
          borderWidth: 1.5, borderDash: i ? [] : [5, 3], pointStyle: i ? "rect" : "circle",
          pointRadius: points.map(point => 3 + 12 * Math.sqrt(point.n / total))},
        {...look, type: "bar", label: "", yAxisID: "fraction", data: fractions, borderWidth: 0, barThickness: "flex"}];
    });
    datasets.push({type: "line", yAxisID: "y", label: "", data: [{x: 0, y: 0}, {x: 1, y: 1}], borderWidth: 1,
      borderColor: colour("edge"), pointRadius: 0, pointHitRadius: 0});
    const axis = (text, more) => ({...more, title: {display: true, text, color: colour("soft")},
      grid: {color: colour("line"), offset: false}, border: {color: colour("edge")}, ticks: {color: colour("soft")}});
    return new Chart($("diagram"), {data: {datasets}, options: {
      animation: false, maintainAspectRatio: false, interaction: {mode: "nearest", intersect: false},
      scales: {
        x: axis("confidence", {type: "linear", min: 0, max: 1, offset: false}),
        fraction: axis("images, %", {stack: "y", stackWeight: 1, beginAtZero: true}),
        y: axis("accuracy", {stack: "y", stackWeight: 3, min: 0, max: 1, offset: true})},
      plugins: {
        legend: {align: "start", labels: {color: colour("ink"), usePointStyle: true, boxHeight: 7, pointStyleWidth: 12,
          filter: item => item.text !== ""}},
        tooltip: {filter: item => item.dataset.diagram, callbacks: {
          title: ([item]) => item?.dataset.name ?? "",
          label: ({raw: {n, bin}, dataset: {diagram}}) => [`bin ${edges(bin, diagram.count.length)}: ${count(n, "prediction")}`,
            `confidence ${show("ece", diagram.confidence[bin])} %, accuracy ${show("ece", diagram.accuracy[bin])} %`]}}}}});
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
        row(rowHead(key), make("td", {}, value))))))), {once: true});
    return details;
  }));
}

/* ---- downloads */
/* Every score of every run as one tidy table; a field with a comma, a quote or a line break is quoted */
function allScores() {
  const quoted = value => /[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
  const ofBlock = ["dataset", "protocol", "image_size", "set", "set_version", "n", "precision"];
  const ofRun = ["algorithm", "loss", "noise", "separating_settings", "seed"];
  const heads = ofRun.map(key => key === "separating_settings" ? "settings" : key);  // as in tables
  const lines = [[...ofBlock, ...heads, "corruption", "severity", "metric", "value"]];
  for (const {run, block, values} of DATA.scores) {
    const keys = [...ofBlock.map(key => DATA.blocks[block][key]), ...ofRun.map(key => DATA.runs[run][key])];
    placesOf(DATA.blocks[block]).forEach(([corruption, severity], place) => {
      for (const [metric, column] of Object.entries(values))
        if (column[place] !== null) lines.push([...keys, corruption, severity || "", metric, column[place]]);
    });
  }
  return lines.map(line => line.map(quoted).join(",") + "\n").join("");
}

function drawDownloads() {
  const button = (name, text, title = name) =>
    make("button", {type: "button", onclick: () => save(name, text())}, title);
  $("files").append(...Object.entries(DATA.tables).map(([name, text]) => button(name, () => text)));
  if (DATA.blocks.length) $("files").append(button("scores.csv", allScores, "scores.csv: every score of every run"));
}

Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
removeEmptySections();
drawHeading();
drawRanking();
drawScores();
drawExplorer();
drawStability();
drawReliability();
drawRuns();
drawDownloads();
