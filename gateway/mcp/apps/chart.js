// The chart page: hears from its host over postMessage (MCP Apps), draws what the tool's structuredContent holds.
"use strict";
(() => {
  const host = window.parent;
  const byId = (id) => document.getElementById(id);
  const title = byId("title"), note = byId("note"), box = byId("chart"), marks = byId("marks"), picture = byId("picture");
  const root = document.documentElement;
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  let plot = null, shown = null, hostTheme = "", nextId = 1;
  const waiting = new Map();

  // --- the host ---
  const send = (message) => host.postMessage({ jsonrpc: "2.0", ...message }, "*");
  const notify = (method, params) => send({ method, params });
  const ask = (method, params) => new Promise((resolve, reject) => {
    const id = nextId++;
    waiting.set(id, { resolve, reject });
    send({ id, method, params });
  });
  const heard = {
    "ui/notifications/tool-input": () => { if (!shown) say("Drawing…"); },
    "ui/notifications/tool-cancelled": () => say("Cancelled."),
    "ui/notifications/tool-result": (params) => result(params),
    "ui/notifications/host-context-changed": (params) => adopt(params),
  };
  window.addEventListener("message", (event) => {
    const message = event.data;
    if (event.source !== host || !message || message.jsonrpc !== "2.0") return;
    if (message.method && message.id !== undefined) {
      const known = message.method === "ping" || message.method === "ui/resource-teardown";
      send(known ? { id: message.id, result: {} }
        : { id: message.id, error: { code: -32601, message: "this page does not answer " + String(message.method) } });
    } else if (message.method) {
      if (Object.hasOwn(heard, message.method)) heard[message.method](message.params || {});
    } else if (waiting.has(message.id)) {
      const { resolve, reject } = waiting.get(message.id);
      waiting.delete(message.id);
      if (message.error) reject(message.error); else resolve(message.result || {});
    }
  });

  function adopt(context) {
    if (context.theme === "light" || context.theme === "dark") hostTheme = context.theme;
    const variables = (context.styles && context.styles.variables) || {};
    for (const [name, value] of Object.entries(variables)) {
      if (/^--[a-z0-9-]+$/.test(name) && typeof value === "string") root.style.setProperty(name, value);
    }
    theme();
  }

  function theme() {
    root.dataset.theme = hostTheme || (prefersDark.matches ? "dark" : "light");
    if (shown) draw();
  }

  // --- what there is to show ---
  function say(text, failed = false) {
    note.textContent = text;
    note.classList.toggle("failed", failed);
  }

  function result(answer) {
    const texts = (answer.content || []).filter((each) => each.type === "text").map((each) => String(each.text));
    if (answer.isError) return say(texts.join(" ").slice(0, 500) || "The tool failed.", true);
    const data = answer.structuredContent || {};
    const image = (answer.content || []).find((each) => each.type === "image" && each.mimeType === "image/png");
    picture.hidden = !(image && /^[A-Za-z0-9+/=]+$/.test(image.data));
    if (!picture.hidden) {
      picture.src = "data:image/png;base64," + image.data;
      picture.alt = String(data.title || "plot");
    }
    const series = Array.isArray(data.series) ? data.series.filter((each) => each && Array.isArray(each.times)) : [];
    shown = { ...data, series: picture.hidden ? series : [] };
    title.textContent = String(data.title || "");
    say(describe(shown));
    draw();
  }

  function describe(data) {
    if (!data.series.some((each) => each.times.length)) return picture.hidden ? "There is nothing to draw in this range." : "";
    const zone = data.timezone ? " · times of " + data.timezone : "";
    const thinned = data.series.some((each) => each.downsampled) ? " · thinned, extremes kept" : "";
    const units = [...new Set(data.series.map((each) => each.unit).filter(Boolean))].join(", ");
    return (units ? "in " + units : "") + zone + thinned;
  }

  const seconds = (text) => Date.parse(text) / 1000;

  // One series as uPlot wants it: null is a gap. Bad values are no part of the line, and silences break it.
  function columns(series) {
    const times = [], values = [], qualities = [];
    const gaps = (series.gaps || []).map(([start, end]) => [seconds(start), seconds(end)]);
    let next = 0, before = -Infinity;
    gaps.sort((a, b) => a[0] - b[0]);
    series.times.forEach((text, at) => {
      let time = typeof text === "number" ? text : seconds(text);
      if (!Number.isFinite(time)) return;
      while (next < gaps.length && gaps[next][1] <= before) next++;
      if (next < gaps.length && before <= gaps[next][0] && time >= gaps[next][1] && times.length) {
        times.push((before + time) / 2); values.push(null); qualities.push("gap");
        next++;
      }
      if (time <= before) time = before + 0.001; // uPlot wants times that grow
      const quality = (series.qualities && series.qualities[at]) || "good";
      times.push(time); qualities.push(quality);
      values.push(quality === "bad" || quality === "missing" ? null : series.values[at] ?? null);
      before = time;
    });
    return { times, values, qualities, series };
  }

  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const number = (value) => value == null ? "–" : Number(value.toPrecision(5)).toString();

  function nameOf(series, all) {
    if (series.name) return String(series.name);
    const devices = new Set(all.map((each) => each.device)), sensors = new Set(all.map((each) => each.sensor));
    return devices.size === all.length || sensors.size === 1 ? String(series.device) : series.device + " " + series.sensor;
  }

  function draw() {
    if (plot) { plot.destroy(); plot = null; }
    const drawn = shown.series.filter((each) => each.times.length).slice(0, 8).map(columns);
    box.hidden = !drawn.length;
    marks.hidden = true;
    if (!drawn.length) return;
    const data = uPlot.join(drawn.map((each) => [each.times, each.values]));
    const quality = drawn.map((each) => new Map(each.times.map((time, at) => [time, each.qualities[at]])));
    plot = new uPlot(options(drawn, quality, data), data, box);
    touch(plot);
    legendOfMarks(drawn);
  }

  function options(drawn, quality, data) {
    const ink = style("--ink"), soft = style("--soft"), line = style("--line"), colours = style("--series").split(/\s+/);
    const unit = [...new Set(drawn.map((each) => each.series.unit || ""))];
    const zone = shown.timezone || "UTC";
    const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui, sans-serif" };
    const all = drawn.map((each) => each.series);
    return {
      width: size().width, height: size().height, tzDate: (time) => uPlot.tzDate(new Date(time * 1000), zone),
      cursor: { drag: { x: true, y: false }, points: { size: 7 } },
      scales: { x: { time: true, range: wholeRange }, y: { range: padded } },
      axes: [
        { ...axis, values: hours },
        { ...axis, label: unit.length === 1 ? unit[0] : "", labelFont: "12px system-ui, sans-serif", labelSize: 18, size: width },
      ],
      series: [
        { label: "Time", value: (u, time) => time == null ? "–" : clock(time, zone) },
        ...drawn.map((each, at) => ({
          label: nameOf(each.series, all), stroke: colours[at % colours.length], width: 1.75, spanGaps: false,
          points: { size: 5, show: (u, si, first, last) => lonely(u.data[si], first, last), filter: (u, si) => alone(u.data[si]) },
          value: (u, value, si, index) => worth(value, each.series.unit, index == null ? "" : quality[at].get(data[0][index])),
        })),
      ],
      hooks: { draw: [(u) => doubts(u, drawn)] },
      legend: { live: true, markers: { width: 2 } },
    };
  }

  function worth(value, unit, quality) {
    const doubt = quality && quality !== "good" && quality !== "gap" ? " (" + quality + ")" : "";
    return number(value) + (value == null ? "" : " " + (unit || "")) + doubt;
  }

  const clock = (time, zone) => new Intl.DateTimeFormat("sv-SE", {
    timeZone: zone, year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
  }).format(new Date(time * 1000));

  // What was asked for, not what was found: an empty end is seen as one.
  function wholeRange(u, low, high) {
    const asked = [seconds(shown.start), seconds(shown.end)];
    if (u.zoomed || !asked.every(Number.isFinite)) return [low, high === low ? low + 1 : high];
    return asked;
  }

  function padded(u, low, high) {
    if (low == null) return [0, 1];
    const room = (high - low || Math.abs(high) || 1) * 0.08;
    return [low - room, high + room];
  }

  // Labels in the site's time, 24 hours; the day where it begins.
  function hours(u, splits) {
    const zone = shown.timezone || "UTC", step = splits.length > 1 ? splits[1] - splits[0] : 3600;
    const short = u.width < 480;
    let before = "";
    return splits.map((time) => {
      const [date, moment] = clock(time, zone).split(" "), day = short ? date.slice(5) : date;
      const label = step >= 86400 ? day : day === before ? moment.slice(0, step < 60 ? 8 : 5) : moment.slice(0, 5) + "\n" + day;
      before = day;
      return label;
    });
  }

  const width = (u, values) => 18 + 7 * Math.max(1, ...(values || []).map((each) => String(each ?? "").length));

  // A value between two gaps has no line: it gets a point.
  function alone(values) {
    const found = [], near = (at, step) => { do { at += step; } while (values[at] === undefined && at >= 0 && at < values.length); return values[at]; };
    values.forEach((value, at) => { if (value != null && near(at, -1) == null && near(at, 1) == null) found.push(at); });
    return found;
  }
  const lonely = (values, first, last) => alone(values).some((at) => at >= first && at <= last);

  // Uncertain values get a ring, bad ones a cross: at their value, or at the foot where they have none.
  function doubts(u, drawn) {
    const pen = u.ctx, dot = devicePixelRatio, foot = u.bbox.top + u.bbox.height - 6 * dot;
    pen.save();
    pen.beginPath();
    pen.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    pen.clip();
    pen.lineWidth = 1.5 * dot;
    for (const each of drawn) {
      each.series.times.forEach((text, at) => {
        const quality = each.series.qualities ? each.series.qualities[at] : "good";
        if (!quality || quality === "good") return;
        const value = each.series.values[at], x = u.valToPos(typeof text === "number" ? text : seconds(text), "x", true);
        const inside = value != null && value >= u.scales.y.min && value <= u.scales.y.max;
        const y = inside ? u.valToPos(value, "y", true) : foot, r = 4 * dot;
        pen.beginPath();
        if (quality === "uncertain") {
          pen.strokeStyle = style("--warn");
          pen.arc(x, y, r, 0, 2 * Math.PI);
        } else {
          pen.strokeStyle = style("--bad");
          pen.moveTo(x - r, y - r); pen.lineTo(x + r, y + r); pen.moveTo(x - r, y + r); pen.lineTo(x + r, y - r);
        }
        pen.stroke();
      });
    }
    pen.restore();
  }

  function legendOfMarks(drawn) {
    const count = (wanted) => drawn.reduce((sum, each) => sum + (each.series.qualities || []).filter(wanted).length, 0);
    const uncertain = count((each) => each === "uncertain"), bad = count((each) => each === "bad" || each === "missing");
    const gaps = drawn.reduce((sum, each) => sum + each.qualities.filter((one) => one === "gap").length, 0);
    marks.replaceChildren();
    const add = (kind, text) => {
      const part = document.createElement("b");
      part.className = kind;
      part.textContent = text;
      marks.append(marks.childNodes.length ? " · " : "", part);
    };
    if (uncertain) add("uncertain", "○ uncertain");
    if (bad) add("bad", "× bad, not in the line");
    if (gaps) add("gap", "a break in the line: nothing was measured");
    marks.hidden = !marks.childNodes.length;
  }

  // One finger shows values, two fingers zoom; a double tap shows all again, as a double click does.
  function touch(u) {
    const over = u.over;
    let pinch = null, tapped = 0;
    const at = (finger) => finger.clientX - over.getBoundingClientRect().left;
    over.addEventListener("touchstart", (event) => {
      if (event.touches.length === 2) {
        const [a, b] = [at(event.touches[0]), at(event.touches[1])];
        pinch = { a: u.posToVal(Math.min(a, b), "x"), b: u.posToVal(Math.max(a, b), "x") };
      } else {
        if (event.timeStamp - tapped < 300) { u.zoomed = false; u.setData(u.data, true); }
        tapped = event.timeStamp;
        point(event.touches[0]);
      }
    }, { passive: true });
    over.addEventListener("touchmove", (event) => {
      if (event.touches.length === 2 && pinch) {
        event.preventDefault();
        const [a, b] = [at(event.touches[0]), at(event.touches[1])].sort((x, y) => x - y);
        const perPixel = (pinch.b - pinch.a) / Math.max(8, b - a);
        const min = pinch.a - a * perPixel;
        zoom(u, min, min + over.clientWidth * perPixel);
      } else if (event.touches.length === 1) point(event.touches[0]);
    }, { passive: false });
    over.addEventListener("touchend", () => { pinch = null; }, { passive: true });
    const point = (finger) => {
      const place = over.getBoundingClientRect();
      u.setCursor({ left: finger.clientX - place.left, top: finger.clientY - place.top });
    };
    over.addEventListener("mousedown", () => { u.zoomed = true; }, true);
    over.addEventListener("dblclick", () => { u.zoomed = false; u.setData(u.data, true); }, true);
  }

  function zoom(u, min, max) {
    u.zoomed = true;
    u.setScale("x", { min, max });
  }

  // --- the size ---
  function size() {
    const wide = Math.max(240, Math.floor(box.clientWidth || root.clientWidth - 28));
    return { width: wide, height: Math.round(Math.min(360, Math.max(200, wide * 0.42))) };
  }
  let told = "";
  new ResizeObserver(() => {
    if (plot && plot.width !== size().width) plot.setSize(size());
    const height = Math.ceil(document.querySelector("main").getBoundingClientRect().height), wide = Math.ceil(root.clientWidth);
    if (told !== wide + "x" + height) {
      told = wide + "x" + height;
      notify("ui/notifications/size-changed", { width: wide, height });
    }
  }).observe(document.querySelector("main"));

  prefersDark.addEventListener("change", theme);
  theme();
  if (host === window) say("This page draws what its host hands it; open it from an assistant.");
  else ask("ui/initialize", {
    appInfo: { name: "ambient-gateway-chart", version: "1.0.0" },
    appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] },
    protocolVersion: "2026-01-26",
  }).then((answer) => {
    adopt(answer.hostContext || {});
    notify("ui/notifications/initialized", {});
  }, () => say("The host did not let this page in.", true));
})();
