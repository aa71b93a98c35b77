// Keeps a page's parts fresh while somebody looks, applies the filter as it is typed, and sends what changes
// something with the operator's token. See the module `pages` of the daemons for the other side.
"use strict";

(() => {
  /** Time between two looks at least and at most, after typing, and until an answer is given up; in ms. */
  const EVERY = 2000, RARELY = 10000, TYPING = 500, GIVE_UP = 15000;
  const TOKEN = "prb-token";
  const $ = (id) => document.getElementById(id);
  const live = document.querySelector("[data-live]");
  const filter = document.querySelector("form[data-filter]");

  // --- Parts that keep themselves fresh -----------------------------------------------------------------

  let timer, asking, typing = false, seen = new Date();

  /** Looks again later; never while nobody looks or somebody types. */
  function later(ms) {
    clearTimeout(timer);
    if (live && !document.hidden && !typing) timer = setTimeout(look, ms);
  }

  function stop() {
    clearTimeout(timer);
    asking?.abort();
    asking = undefined;
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
    // What takes long is asked for less often.
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
    for (const part of fresh.querySelectorAll("[data-part]")) {
      const old = $(part.id);
      if (!old || old.innerHTML === part.innerHTML || isMarked(old)) continue;
      const focus = old.contains(document.activeElement) ? document.activeElement.id : "";
      old.replaceChildren(...part.childNodes);
      if (focus) $(focus)?.focus({ preventScroll: true });
    }
  }

  /** Whether somebody marks text in it, to copy it. */
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
    button.hidden = false;
    button.textContent = sessionStorage.getItem(TOKEN) ? "Forget token" : "Enter token";
  }

  /** Asks for the token; undefined where the answer is none. */
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

  async function send(action, token) {
    const headers = { accept: "application/json" };
    if (token) headers.authorization = `Bearer ${token}`;
    const answer = await fetch(action, { method: "POST", headers, signal: AbortSignal.timeout(GIVE_UP) });
    const { message } = await answer.json();
    return { ok: answer.ok, status: answer.status, message };
  }

  async function act(form) {
    if (form.dataset.ask && !confirm(form.dataset.ask)) return;
    const kept = sessionStorage.getItem(TOKEN);
    let answer = await send(form.action, kept);
    if (answer.status === 401 && !kept) {
      const token = await askToken();
      if (!token) return;
      answer = await send(form.action, token);
      if (answer.status !== 401) keep(token);
    } else if (answer.status === 401) {
      keep(undefined);
    }
    say(answer.message, answer.ok);
    if (answer.ok && form.dataset.then) location.assign(form.dataset.then);
    else if (live) later(0);
  }

  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-act]");
    if (!form) return;
    event.preventDefault();
    act(form).catch((error) => say(`Nothing came back: ${error.message}`, false));
  });
  // Without the button's value: Enter in the field means to use it.
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.target !== $("token-value")) return;
    event.preventDefault();
    dialog.close("use");
  });
  $("token").addEventListener("click", async () => {
    keep(sessionStorage.getItem(TOKEN) ? undefined : await askToken());
  });

  showToken();
  later(EVERY);
})();
