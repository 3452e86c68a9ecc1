(function (id) {
  "use strict";
  const root = document.getElementById(id);
  if (!root || root.classList.contains("live")) return;
  root.classList.add("live");
  root.querySelectorAll(".adv-tabs").forEach(startTabs);
  root.querySelectorAll(".adv-graph").forEach(startGraph);

  function startTabs(bar) {
    const tabs = [...bar.children];
    const panels = tabs.map((tab) => document.getElementById(tab.getAttribute("aria-controls")));
    const select = (chosen) => tabs.forEach((tab, at) => {
      tab.setAttribute("aria-selected", tab === chosen);
      tab.tabIndex = tab === chosen ? 0 : -1;
      panels[at].hidden = tab !== chosen;
      if (tab === chosen) panels[at].dispatchEvent(new Event("shown"));
    });
    tabs.forEach((tab, at) => {
      tab.onclick = () => select(tab);
      tab.onkeydown = (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = tabs[(at + step + tabs.length) % tabs.length];
        select(next);
        next.focus();
      };
    });
    select(tabs[0]);
  }

  function startGraph(graph) {
    const data = JSON.parse(graph.querySelector("script[type='application/json']").textContent);
    const pane = graph.querySelector(".adv-pane");
    const sheet = graph.querySelector(".adv-sheet");
    const canvas = graph.querySelector(".adv-canvas");
    const svg = graph.querySelector(".adv-wires");
    const note = graph.querySelector(".adv-note");
    const items = new Map([...canvas.querySelectorAll("[data-id]")].map((one) => [one.dataset.id, one]));
    const boxes = [...canvas.querySelectorAll("[role=treeitem]")];
    const isOpen = (box) => box.getAttribute("aria-expanded") === "true";
    const isShown = (box) => box.offsetParent !== null;
    const parentOf = (box) => box.parentElement.closest("[role=treeitem]");
    let zoom = 1;
    let current = boxes[0];

    /* lines */
    const origin = () => canvas.getBoundingClientRect();
    function frame(element, from) {
      const rect = element.getBoundingClientRect();
      return {
        x: (rect.left + rect.width / 2 - from.left) / zoom,
        top: (rect.top - from.top) / zoom,
        bottom: (rect.bottom - from.top) / zoom,
      };
    }
    function cellOf(end) {
      const item = items.get(end);
      return item.matches("[role=treeitem]") ? item.parentElement : item;
    }
    function sources(end, values) {
      const box = items.get(end);
      if (!box || box.getAttribute("aria-expanded") !== "true") return box ? [box] : [];
      const ports = [...items].filter(([name, port]) =>
        name.startsWith(end + ">") && port.dataset.values.split(" ").some((one) => values.includes(one)));
      return ports.length ? ports.map(([, port]) => port) : [box];
    }
    function targetOf(line) {
      const port = items.get(line.target + "<" + line.source.split("<").pop());
      return port && isShown(port) ? port : items.get(line.target);
    }
    function draw() {
      const parts = [];
      const from = origin();
      for (const line of data.lines) {
        const target = targetOf(line);
        if (!target || !isShown(target)) continue;
        for (const source of sources(line.source, line.values)) {
          if (!isShown(source)) continue;
          const start = frame(source, from);
          const end = frame(target, from);
          const stops = line.bends.map((one) => frame(items.get(one), from));
          stops.push({ x: end.x, top: frame(cellOf(line.target), from).top, bottom: end.top });
          let here = { x: start.x, y: frame(cellOf(line.source), from).bottom };
          let path = `M${start.x} ${start.bottom}V${here.y}`;
          for (const stop of stops) {
            const half = (here.y + stop.top) / 2;
            path += `C${here.x} ${half} ${stop.x} ${half} ${stop.x} ${stop.top}V${stop.bottom}`;
            here = { x: stop.x, y: stop.bottom };
          }
          parts.push(`<path d="${path}" data-ends="${line.source} ${line.target}"/>`);
        }
      }
      svg.innerHTML = parts.join("");
      svg.setAttribute("width", canvas.offsetWidth);
      svg.setAttribute("height", canvas.offsetHeight);
      measure();
    }
    function measure() {
      const width = canvas.offsetWidth * zoom;
      sheet.style.width = width + "px";
      sheet.style.height = canvas.offsetHeight * zoom + "px";
      canvas.style.left = Math.max(0, (pane.clientWidth - width) / 2) + "px";
    }
    function light(box) {
      const name = box && box.dataset.id;
      for (const path of svg.children) path.classList.toggle("lit", path.dataset.ends.split(" ").includes(name));
    }

    /* what the note says */
    function tell(box, found) {
      const about = data.notes[box.dataset.id];
      if (!about) return;
      note.replaceChildren();
      const title = document.createElement("h3");
      title.textContent = found || about.title;
      const list = document.createElement("dl");
      for (const [what, text] of about.rows) {
        const term = document.createElement("dt");
        const value = document.createElement("dd");
        term.textContent = what;
        value.textContent = text;
        list.append(term, value);
      }
      note.append(title, list);
      light(box);
    }

    /* moving about */
    function choose(box, found) {
      if (current) current.tabIndex = -1;
      current = box;
      box.tabIndex = 0;
      box.focus({ preventScroll: true });
      centre(box);
      tell(box, found);
    }
    function centre(box, always) {
      const part = box.querySelector(".adv-head") || box;
      const inner = part.getBoundingClientRect();
      const outer = pane.getBoundingClientRect();
      if (always || inner.top < outer.top || inner.bottom > outer.bottom || inner.left < outer.left || inner.right > outer.right) {
        pane.scrollTop += inner.top - outer.top - (outer.height - inner.height) / 2;
        pane.scrollLeft += inner.left - outer.left - (outer.width - inner.width) / 2;
      }
    }
    function open(box, wanted) {
      if (!box.hasAttribute("aria-expanded")) return;
      box.setAttribute("aria-expanded", wanted);
      draw();
    }
    function reveal(box) {
      for (let above = parentOf(box); above; above = parentOf(above)) above.setAttribute("aria-expanded", true);
      draw();
    }
    const keys = {
      ArrowDown: (box, shown) => choose(shown[Math.min(shown.indexOf(box) + 1, shown.length - 1)]),
      ArrowUp: (box, shown) => choose(shown[Math.max(shown.indexOf(box) - 1, 0)]),
      Home: (box, shown) => choose(shown[0]),
      End: (box, shown) => choose(shown[shown.length - 1]),
      ArrowRight: (box, shown) =>
        box.getAttribute("aria-expanded") === "false" ? open(box, true)
          : isOpen(box) && choose(shown[shown.indexOf(box) + 1]),
      ArrowLeft: (box) => (isOpen(box) ? open(box, false) : parentOf(box) && choose(parentOf(box))),
      Enter: (box) => open(box, !isOpen(box)),
      " ": (box) => open(box, !isOpen(box)),
      "+": () => scale(zoom * 1.2),
      "-": () => scale(zoom / 1.2),
      0: () => scale(1),
    };
    canvas.addEventListener("keydown", (event) => {
      const act = !event.ctrlKey && !event.metaKey && !event.altKey && keys[event.key];
      if (!act) return;
      event.preventDefault();
      event.stopPropagation();
      act(event.target.closest("[role=treeitem]"), boxes.filter(isShown));
    });
    canvas.addEventListener("click", (event) => {
      const box = event.target.closest("[role=treeitem]");
      if (!box) return;
      choose(box);
      if (event.target.closest(".adv-head")) open(box, !isOpen(box));
    });
    canvas.addEventListener("mouseover", (event) => {
      const box = event.target.closest("[role=treeitem]");
      if (box) tell(box);
    });
    canvas.addEventListener("focusin", (event) => tell(event.target.closest("[role=treeitem]")));

    /* zoom and pan */
    function scale(wanted, at) {
      const rect = pane.getBoundingClientRect();
      const x = at ? at.clientX - rect.left : rect.width / 2;
      const y = at ? at.clientY - rect.top : rect.height / 2;
      const before = zoom;
      zoom = Math.min(3, Math.max(0.15, wanted));
      canvas.style.transform = `scale(${zoom})`;
      measure();
      pane.scrollLeft = ((pane.scrollLeft + x) * zoom) / before - x;
      pane.scrollTop = ((pane.scrollTop + y) * zoom) / before - y;
    }
    const fit = () => scale(Math.min(1, pane.clientWidth / canvas.offsetWidth, pane.clientHeight / canvas.offsetHeight));
    pane.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      scale(zoom * Math.exp(-event.deltaY / 300), event);
    }, { passive: false });
    pane.addEventListener("pointerdown", (event) => {
      if (event.button || event.target.closest("[role=treeitem]:not(.adv-group), .adv-head")) return;
      const start = [event.clientX + pane.scrollLeft, event.clientY + pane.scrollTop];
      const move = (to) => {
        pane.classList.add("dragging");
        pane.scrollLeft = start[0] - to.clientX;
        pane.scrollTop = start[1] - to.clientY;
      };
      const stop = () => {
        pane.classList.remove("dragging");
        removeEventListener("pointermove", move);
        removeEventListener("pointerup", stop);
      };
      addEventListener("pointermove", move);
      addEventListener("pointerup", stop);
    });

    /* the bar */
    function colour(mode) {
      const scheme = data.colours[mode];
      graph.dataset.mode = mode;
      for (const box of boxes) box.dataset.slot = scheme.slots[box.dataset.id] || "c0";
      const legend = graph.querySelector(".adv-legend");
      legend.replaceChildren(...scheme.legend.map(([slot, label]) => {
        const entry = document.createElement("span");
        const mark = document.createElement("i");
        mark.dataset.slot = slot;
        entry.append(mark, label);
        return entry;
      }));
    }
    function find(text) {
      const wanted = text.trim().toLowerCase();
      if (!wanted) return;
      const hits = Object.entries(data.notes).flatMap(([name, about]) => {
        const hit = about.names.find((one) => one.toLowerCase() === wanted)
          || about.names.find((one) => one.toLowerCase().includes(wanted))
          || (about.title.toLowerCase().includes(wanted) && about.title);
        return hit ? [[name, hit, hit.toLowerCase() === wanted]] : [];
      }).sort((one, other) => other[2] - one[2]);
      if (!hits.length) {
        note.textContent = `Nothing here is called “${text}”.`;
        return;
      }
      const after = hits.findIndex(([name]) => current && name === current.dataset.id) + 1;
      const [name, hit] = hits[after % hits.length];
      reveal(items.get(name));
      choose(items.get(name), hit);
    }
    const all = (wanted) => {
      boxes.forEach((box) => box.hasAttribute("aria-expanded") && box.setAttribute("aria-expanded", wanted));
      draw();
    };
    const actions = { in: () => scale(zoom * 1.2), out: () => scale(zoom / 1.2), fit, open: () => all(true), close: () => all(false) };
    graph.querySelectorAll("button[data-do]").forEach((button) => { button.onclick = actions[button.dataset.do]; });
    const chooser = graph.querySelector(".adv-colour");
    chooser.onchange = () => colour(chooser.value);
    const search = graph.querySelector(".adv-find");
    search.onkeydown = (event) => {
      event.stopPropagation();
      if (event.key === "Enter") find(search.value);
    };

    function begin() {
      scale(Math.min(1, Math.max(0.6, pane.clientWidth / canvas.offsetWidth)));
      const seen = boxes.filter(isShown);
      const pick = seen.find((one) => one.matches(".adv-op.added, .adv-op.removed")) || seen.find((one) => one.matches(".rewired"));
      if (pick) {
        current = pick;
        centre(pick, true);
      } else {
        pane.scrollLeft = (canvas.offsetWidth * zoom - pane.clientWidth) / 2;
      }
      boxes.forEach((box) => { box.tabIndex = box === current ? 0 : -1; });
      tell(current);
      light(null);
    }
    colour(chooser.value);
    draw();
    begin();
    new ResizeObserver(() => draw()).observe(canvas);
    const panel = graph.closest("[role=tabpanel]");
    if (panel) panel.addEventListener("shown", () => { draw(); begin(); }, { once: true });
  }
})
