// One's orders, moving while one looks. REST for what is asked, the gateway for what happens.

import { Live } from "./live.js";

const STAGES = ["confirmed", "picking", "shipped", "delivered"];
const KINDS = { delivered: "good", awaiting_payment: "wait", refused: "bad", cancelled: "bad", lost: "bad", refunded: "bad" };
const SHOWN = 20, SPREAD_MS = 500, EARLY_S = 30;

const at = (id) => document.getElementById(id);
const orders = new Map(); // number → the order as it was told last
let session = null; // in memory only: a refresh token is good once, so tabs must not share it
let live = null;

const make = (tag, kind = "", text = "") => Object.assign(document.createElement(tag), { className: kind, textContent: text });
const money = (minor, currency) => new Intl.NumberFormat("en", { style: "currency", currency }).format(minor / 100);
const words = (state) => state.replaceAll("_", " ");

function wrong(error) {
  at("wrong").hidden = !error;
  at("wrong").textContent = error ? error.message : "";
}

async function ask(method, path, body, token = session?.token, more = {}) {
  const headers = { ...(body && { "Content-Type": "application/json" }), ...(token && { Authorization: `Bearer ${token}` }), ...more };
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(10_000) });
  const told = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (answer.ok) return told;
  const error = new Error(told?.detail ?? told?.title ?? `HTTP ${answer.status}`);
  throw Object.assign(error, { final: answer.status === 401 || answer.status === 403 });
}

// ------------------------------------------------------------------------------------------------------------ session

const remember = (token) => (session = { ...token, until: performance.now() + (token.expires_in_s - EARLY_S) * 1000 });
let renewing = null;

/** A token that is good for a while; one renewal at a time, because a refresh token is good once. */
async function token(renew = false) {
  if (!renew && performance.now() < session.until) return session.token;
  const whose = live;
  renewing ??= ask("POST", "/v1/token", { refresh_token: session.refresh_token }, "")
    .then((fresh) => live === whose && remember(fresh)) // not for who has logged out meanwhile
    .finally(() => (renewing = null));
  await renewing;
  return session?.token;
}

async function gatewayUrl() {
  const { url, port, path } = await ask("GET", "/v1/live", null, "");
  return url || `${location.protocol === "https:" ? "wss" : "ws"}://${location.hostname}:${port}${path}`;
}

async function enter(email, password) {
  remember(await ask("POST", "/v1/login", { email, password }, ""));
  inside(true);
  live = new Live({ url: gatewayUrl, token, state: connection });
  live.subscribe(`user:${session.user_id}`, { load: () => load(), message: changed, refused: wrong });
  live.subscribe("orders", { message: () => load(Math.random() * SPREAD_MS) });
  await articles();
}

async function leave() {
  live?.close();
  await ask("POST", "/v1/logout", {}).catch(() => null); // over for us, whatever the answer
  live = session = null;
  orders.clear();
  show();
  connection({ name: "closed" });
  inside(false);
}

function inside(yes) {
  at("login").hidden = yes;
  at("shop").hidden = at("account").hidden = !yes;
}

function connection({ name, againMs, error }) {
  const said = { connecting: "connecting …", open: "live", closed: "not connected" };
  const later = againMs >= 2000 ? `trying again in ${Math.round(againMs / 1000)} s` : "trying again …";
  at("connection").dataset.state = name;
  at("connection").querySelector(".words").textContent = name === "waiting" ? later : said[name];
  if (error) wrong(error);
}

// ------------------------------------------------------------------------------------------------------------- orders

let loading = false, again = false;

/** All that is shown, anew. Asked for while it runs, it runs once more; when it fails, it is tried until it does not. */
async function load(afterMs = 0) {
  again = true;
  if (loading) return;
  loading = true;
  await pause(afterMs);
  while (again && session) {
    again = false;
    const whose = live;
    try {
      const { items } = await ask("GET", `/v1/orders?limit=${SHOWN}`, null, await token());
      if (live === whose) {
        for (const order of items) take(order);
        show();
      } else again = true; // these are orders of somebody who has logged out
    } catch (error) {
      if (live !== whose) again = true;
      else if (error.final) wrong(error);
      else {
        again = true;
        await pause(500 + Math.random() * 1000);
      }
    }
  }
  loading = false;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** What is older than what is known comes too late: an order was loaded after it happened. */
function take(order) {
  const known = orders.get(order.order_id);
  if (!known || order.updated_us >= known.updated_us) orders.set(order.order_id, { ...known, ...order });
}

function changed({ order_id, state, at_us }) {
  if (!orders.has(order_id)) load();
  else {
    take({ order_id, state, updated_us: at_us });
    show(order_id);
  }
}

function article({ sku, name, price_minor, currency, available }) {
  const text = `${name} · ${money(price_minor, currency)}${available ? "" : " · sold out"}`;
  return Object.assign(make("option", "", text), { value: sku, disabled: !available });
}

async function articles() {
  const { items } = await ask("GET", "/v1/products?limit=50", null, "");
  at("place").sku.replaceChildren(...items.map(article));
}

function show(moved = "") {
  const newest = [...orders.values()].sort((a, b) => b.created_us - a.created_us).slice(0, SHOWN);
  at("none").hidden = newest.length > 0;
  const cards = new Map([...at("orders").children].map((card) => [card.dataset.order, card]));
  at("orders").replaceChildren(...newest.map((order) => card(order, cards.get(order.order_id), order.order_id === moved)));
}

function card(order, before, moved) {
  const stamp = `${order.state} ${order.refusal ?? ""}`;
  if (before?.dataset.stamp === stamp) return before;
  const made = make("li", moved ? "moved" : "");
  made.addEventListener("animationend", () => made.classList.remove("moved")); // else it plays again wherever it is put
  Object.assign(made.dataset, { order: order.order_id, state: order.state, stamp });
  const head = make("div", "head");
  head.append(make("strong", "", `Order ${order.order_id}`), make("span", `state ${KINDS[order.state] ?? "way"}`, words(order.state)));
  const what = order.lines.map((line) => `${line.quantity} × ${line.sku}`).join(", ");
  const body = make("div", "body");
  body.append(make("span", "what", what), make("span", "total", money(order.total_minor, order.currency)));
  made.append(head, body);
  const reached = STAGES.indexOf(order.state);
  if (reached >= 0) {
    const way = make("div", "stages");
    way.setAttribute("aria-hidden", "true"); // the state says it in words
    STAGES.forEach((stage, i) => way.append(make("span", i <= reached ? "done" : "", stage)));
    made.append(way);
  }
  if (order.refusal) made.append(make("p", "refusal", order.refusal));
  return made;
}

// -------------------------------------------------------------------------------------------------------------- forms

function submits(form, work) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    wrong(null);
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      await work(new FormData(form));
    } catch (error) {
      wrong(error);
    } finally {
      button.disabled = false;
    }
  });
}

submits(at("login"), async (form) => {
  await enter(form.get("email"), form.get("password"));
  at("login").reset();
});

submits(at("place"), async (form) => {
  const lines = [{ sku: form.get("sku"), quantity: Number(form.get("quantity")) }];
  const key = [...crypto.getRandomValues(new Uint32Array(4))].join("-");
  await ask("POST", "/v1/orders", { lines }, await token(), { "Idempotency-Key": key });
});

at("logout").addEventListener("click", leave);
