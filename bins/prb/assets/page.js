// Updates a page's parts while it is visible, applies the filter while typing, and sends changes with the
// operator's token. The server's side is the module `pages` of the daemons.
"use strict";

(() => {
  /** Minimum and maximum polling interval, delay after typing, and timeout of an answer; in ms. */
  const EVERY = 2000, RARELY = 10000, TYPING = 500, GIVE_UP = 15000, AWAY = 4000;
  const TOKEN = "prb-token", SAID = "prb-said";
  const $ = (id) => document.getElementById(id);
  const live = document.querySelector("[data-live]");
  const filter = document.querySelector("form[data-filter]");

  // --- Parts that update --------------------------------------------------------------------------------

  let timer, asking, stream, typing = false, seen = new Date();
  /** Whether the server streams changes: true until a stream is refused. */
  let streams = !!live && live.hasAttribute("data-stream") && "EventSource" in window;

  /** Schedules the next update; none while the page is hidden or a field has focus. */
  function later(ms) {
    clearTimeout(timer);
    if (live && !document.hidden && !typing) timer = setTimeout(streams ? listen : look, ms);
  }

  function stop() {
    clearTimeout(timer);
    asking?.abort();
    asking = undefined;
    stream?.close();
    stream = undefined;
  }

  /** Opens the stream of changes. Browsers limit connections per server, so only a visible tab has one. */
  function listen() {
    stop();
    const mine = stream = new EventSource(live.dataset.live);
    let open = false, away;
    const here = () => {
      open = true;
      clearTimeout(away);
      away = undefined;
      offline(false);
    };
    mine.onopen = here;
    mine.onmessage = (event) => {
      if (mine !== stream) return;
      here();
      const patch = JSON.parse(event.data);
      for (const [id, html] of patch.parts) replace($(id), html);
      for (const [id, html] of patch.rows) replace($(id), html);
      if (document.querySelector("[data-reload]") && patch.parts.length > 1) location.reload();
    };
    mine.onerror = () => {
      if (mine !== stream) return;
      if (open && mine.readyState !== EventSource.CLOSED) {
        // Streams end regularly, and the browser opens the next one.
        away ??= setTimeout(() => mine === stream && offline(true), AWAY);
        return;
      }
      // The stream was refused, possibly because there are too many: poll instead.
      stop();
      streams = false;
      later(0);
    };
  }

  async function look() {
    stop();
    const mine = asking = new AbortController();
    const limit = setTimeout(() => mine.abort(), GIVE_UP);
    const start = performance.now();
    let text;
    try {
      const answer = await fetch(live.dataset.live, { signal: mine.signal, headers: { accept: "text/html" } });
      if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
      text = await answer.text();
    } catch (error) {
      text = undefined;
    }
    clearTimeout(limit);
    if (mine !== asking) return; // Something newer is asked for.
    asking = undefined;
    if (text === undefined) {
      offline(true);
    } else {
      offline(false);
      put(text);
    }
    // Slow parts are requested less often.
    later(Math.min(Math.max(EVERY, 4 * (performance.now() - start)), RARELY));
  }

  function offline(is) {
    const line = $("offline");
    if (is && line.hidden) line.textContent = `No answer since ${seen.toLocaleTimeString()}: what is below is old.`;
    if (!is) seen = new Date();
    line.hidden = !is;
  }

  /** Replaces the parts that differ. Scripts in them would not run. */
  function put(text) {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    for (const part of fresh.querySelectorAll("[data-part]")) exchange($(part.id), part);
  }

  /** Replaces an element by its new HTML. A template also accepts table rows, which a document does not. */
  function replace(old, html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    exchange(old, template.content.firstElementChild);
  }

  /** Replaces the content of `old` by that of `fresh`; checked boxes, focus and selection are kept. */
  function exchange(old, fresh) {
    if (!old || !fresh || isMarked(old)) return;
    for (const box of old.querySelectorAll("input[type=checkbox]:checked[id]")) {
      fresh.querySelector(`#${CSS.escape(box.id)}`)?.setAttribute("data-was-checked", "");
    }
    const focus = old.contains(document.activeElement) ? document.activeElement.id : "";
    const boxes = fresh.querySelectorAll("[data-was-checked]");
    const chosen = [...boxes].map((box) => box.removeAttribute("data-was-checked") ?? box);
    if (old.innerHTML !== fresh.innerHTML) {
      old.replaceChildren(...fresh.childNodes);
      for (const box of chosen) box.checked = true;
      if (focus) $(focus)?.focus({ preventScroll: true });
    }
    if (old.className !== fresh.className) old.className = fresh.className;
  }

  // --- Choosing rows ------------------------------------------------------------------------------------

  document.addEventListener("change", (event) => {
    const all = event.target.closest?.("[data-choose]");
    if (!all) return;
    for (const box of all.closest("table").querySelectorAll(`input[name="${all.dataset.choose}"]`)) {
      box.checked = all.checked;
    }
  });

  /** Whether text in it is selected, to be copied. */
  function isMarked(part) {
    const selection = getSelection();
    return !!selection && !selection.isCollapsed && selection.containsNode(part, true);
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : later(0)));

  // --- The filter ---------------------------------------------------------------------------------------

  let pause;

  function apply() {
    clearTimeout(pause);
    typing = false;
    const fields = [...new FormData(filter)].filter(([, value]) => value.trim() !== "");
    const query = new URLSearchParams(fields).toString();
    const tail = query && `?${query}`;
    history.replaceState(null, "", filter.getAttribute("action") + tail);
    live.dataset.live = live.dataset.live.split("?")[0] + tail;
    stop();
    later(0);
  }

  filter?.addEventListener("input", () => {
    typing = true;
    stop();
    clearTimeout(pause);
    pause = setTimeout(apply, TYPING);
  });
  filter?.addEventListener("submit", (event) => {
    event.preventDefault();
    apply();
  });

  // --- Changes ------------------------------------------------------------------------------------------

  const dialog = $("token-dialog");
  let saying;

  function say(text, good) {
    const line = $("said");
    line.textContent = text;
    line.className = good ? "good" : "bad";
    line.hidden = false;
    clearTimeout(saying);
    saying = setTimeout(() => (line.hidden = true), 10000);
  }

  function showToken() {
    const button = $("token");
    if (!button) return;
    button.hidden = false;
    button.textContent = sessionStorage.getItem(TOKEN) ? "Forget token" : "Enter token";
  }

  /** Asks for the token; undefined if the dialog is cancelled. */
  function askToken() {
    return new Promise((answer) => {
      const field = $("token-value");
      field.value = "";
      dialog.returnValue = "";
      dialog.addEventListener("close", () => {
        const token = field.value.trim();
        field.value = "";
        answer(dialog.returnValue === "use" && token !== "" ? token : undefined);
      }, { once: true });
      dialog.showModal();
      field.focus();
    });
  }

  function keep(token) {
    if (token) sessionStorage.setItem(TOKEN, token);
    else sessionStorage.removeItem(TOKEN);
    showToken();
  }

  async function send(form, token) {
    const headers = { accept: "application/json" };
    if (token) headers.authorization = `Bearer ${token}`;
    const body = new URLSearchParams(new FormData(form));
    const signal = AbortSignal.timeout(GIVE_UP);
    const answer = await fetch(form.action, { method: "POST", headers, body, signal });
    const { message } = await answer.json();
    return { ok: answer.ok, status: answer.status, message };
  }

  async function act(form) {
    if (form.dataset.ask && !confirm(form.dataset.ask)) return;
    const kept = sessionStorage.getItem(TOKEN);
    let answer = await send(form, kept);
    if (answer.status === 401 && !kept) {
      const token = await askToken();
      if (!token) return;
      answer = await send(form, token);
      if (answer.status !== 401) keep(token);
    } else if (answer.status === 401) {
      keep(undefined);
    }
    tell(form, answer);
    if (answer.ok && form.dataset.then) {
      sessionStorage.setItem(SAID, answer.message);
      location.assign(form.dataset.then);
    } else if (live) {
      later(0);
    }
  }

  /** Shows a message next to the form if it has a place for it; otherwise below for ten seconds. */
  function tell(form, { message, ok }) {
    const place = form.querySelector("[data-error]") ?? form.parentElement.querySelector(":scope > [data-error]");
    if (place) {
      place.hidden = ok;
      place.textContent = ok ? "" : message;
    }
    if (ok || !place) say(message, ok);
  }

  /** The result of the previous page's action. */
  function repeat() {
    const text = sessionStorage.getItem(SAID);
    sessionStorage.removeItem(SAID);
    if (text) say(text, true);
  }

  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-act]");
    if (!form) return;
    event.preventDefault();
    const failed = (error) => tell(form, { message: `No answer: ${error.message}`, ok: false });
    act(form).catch(failed);
  });
  // Enter in the field submits without the button's value.
  dialog?.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.target !== $("token-value")) return;
    event.preventDefault();
    dialog.close("use");
  });
  $("token")?.addEventListener("click", async () => {
    keep(sessionStorage.getItem(TOKEN) ? undefined : await askToken());
  });

  showToken();
  repeat();
  later(streams ? 0 : EVERY);
})();
