// A client of a gateway for pages: it comes again by itself, and misses nothing that can still be had.
//
//   import { Live } from "./live.js";
//   const live = new Live({
//     url: "wss://shop.example/live",          // or an (async) function, asked before each connection
//     token: async (renew) => "…",             // renew: the last one may not be believed any more
//     state: ({ name, againMs, error }) => {}, // "connecting", "open", "waiting", "closed"
//   });
//   live.subscribe("user:7", {
//     load: () => {},                          // load the state by other means: at the beginning, and after a gap
//     message: (data, offset) => {},           // then each message once, in order
//     refused: (error) => {},                  // may not be subscribed
//   });
//   const answer = await live.call("shop.v1.Orders/GetOrder", { order_id: "42" }, { timeoutMs: 2000 });
//   live.close();
//
// The offsets are kept in memory: they outlive a connection, not the page. Decisions are those of the Python client
// (returning.py and following.py say why); this file is them in the language of browsers.

const FIRST_MS = 500, MAX_MS = 30_000, STEADY_MS = 10_000, OPEN_MS = 10_000, PROBE_MS = 5_000, EARLY_MAX = 1_000;
const SESSION_OVER = 4001, KICKED = 4002;
const HINT = /\breconnect in (\d{1,5}(?:\.\d{1,3})?) s\b/;

export class LiveError extends Error {
  constructor(code, message, { fields = {}, retryAfterS = null } = {}) {
    super(message);
    this.name = "LiveError";
    this.code = code;
    this.fields = fields;
    this.retryAfterS = retryAfterS;
  }
}

/** When to come again after a close, in ms, or an error that says why not. `tries` in a row were short. */
export function afterClose(code, reason, tries, chance) {
  if (code === SESSION_OVER) return { pauseMs: tries ? pause(tries, chance) : 0, renew: true };
  if (code === KICKED) return { error: new LiveError("kicked", `the gateway ended this connection: ${reason}`) };
  if ([1002, 1003, 1007, 1009].includes(code)) {
    return { error: new LiveError("protocol", `the gateway did not understand this page: ${code} ${reason}`) };
  }
  const hint = HINT.exec(reason);
  if (hint) return { pauseMs: Math.min(MAX_MS, Number(hint[1]) * 1000), told: true };
  return { pauseMs: pause(tries, chance) };
}

const pause = (tries, chance) => chance * Math.min(MAX_MS, FIRST_MS * 2 ** Math.min(tries, 20));

/** A place in one topic: what is ahead of its turn waits until what was missed is here. What comes between a question
 *  and its answer comes again after it. */
export class Follower {
  constructor(hand) {
    this.hand = hand; // message(data, offset), load()
    this.last = null;
    this.ask();
  }

  ask() {
    this.stage = "asked";
    this.until = null;
    this.early = [];
    this.overflowed = false;
    return this.last;
  }

  /** True when the topic has to be asked for again. */
  answered(now, complete) {
    if (this.stage !== "asked") return false;
    const load = !complete || this.last === null;
    if (load) this.last = now;
    this.until = now;
    this.stage = "catching up";
    if (load) this.#tell("load");
    return this.#catchUp();
  }

  message(data, offset) {
    if (!offset) this.#tell("message", data, null); // it is kept nowhere: now or never
    else if (this.stage === "live") this.#take(data, offset);
    else if (this.stage === "catching up") {
      if (!this.#ahead(offset)) {
        this.#take(data, offset);
        return this.#catchUp();
      }
      if (this.early.length < EARLY_MAX) this.early.push([data, offset]);
      else this.overflowed = true;
    }
    return false;
  }

  /** A fault of the page's in one message must not keep it from those that follow. */
  #tell(name, ...what) {
    try {
      this.hand[name]?.(...what);
    } catch (error) {
      reportError(error);
    }
  }

  #take(data, offset) {
    if (this.#has(offset)) return;
    this.last = offset;
    this.#tell("message", data, offset);
  }

  #catchUp() {
    if (this.stage !== "catching up" || !this.#has(this.until)) return false;
    this.stage = "live";
    for (const [data, offset] of this.early.splice(0)) this.#take(data, offset);
    return this.overflowed;
  }

  #has([epoch, number]) {
    return this.last !== null && this.last[0] === epoch && number <= this.last[1];
  }

  #ahead([epoch, number]) {
    return epoch !== this.until[0] || number > this.until[1];
  }
}

export class Live {
  #url; #token; #tell; #random;
  #socket = null; #open = false; #closed = false; #serial = 0; #tries = 0; #renew = false; #renewed = false; #attempt = 0;
  #timer = null; #told = false; #probe = null;
  #topics = new Map(); // topic → {follower, hand, ready}
  #asked = new Map(); // id → topic
  #calls = new Map(); // id → {resolve, reject, timer}
  #wakes = () => this.#wake();

  constructor({ url, token = null, state = () => {}, random = Math.random }) {
    this.#url = url;
    this.#token = token;
    this.#tell = state;
    this.#random = random;
    addEventListener("online", this.#wakes);
    document.addEventListener("visibilitychange", this.#wakes);
    this.#connect();
  }

  get open() {
    return this.#open;
  }

  subscribe(topic, hand) {
    if (this.#topics.has(topic)) throw new LiveError("subscribed", `${topic} is followed already`);
    this.#topics.set(topic, new Follower(hand));
    if (this.#open) this.#subscribe(topic);
  }

  unsubscribe(topic) {
    if (this.#topics.delete(topic) && this.#open) this.#send({ kind: "unsubscribe", id: ++this.#serial, topic });
  }

  /** Asks a service through the gateway. When the connection ends first, nobody knows whether it was done. */
  call(method, data = {}, { timeoutMs = 10_000 } = {}) {
    if (this.#closed) return Promise.reject(new LiveError("closed", "this client was closed"));
    if (!this.#open) return Promise.reject(new LiveError("not_connected", "there is no connection at the moment"));
    const id = ++this.#serial;
    return new Promise((resolve, reject) => {
      const late = new LiveError("deadline_exceeded", `${method}: no answer in time; the outcome is unknown`);
      const timer = setTimeout(() => (this.#calls.delete(id), reject(late)), timeoutMs);
      this.#calls.set(id, { resolve, reject, timer });
      this.#send({ kind: "call", id, method, data, timeout_s: timeoutMs / 1000 });
    });
  }

  close(error = null) {
    if (this.#closed) return;
    this.#closed = true;
    removeEventListener("online", this.#wakes);
    document.removeEventListener("visibilitychange", this.#wakes);
    clearTimeout(this.#timer);
    this.#leave();
    this.#tell({ name: "closed", error });
  }

  async #connect() {
    const attempt = ++this.#attempt;
    this.#timer = null;
    this.#tell({ name: "connecting" });
    let url, token;
    try {
      url = typeof this.#url === "function" ? await this.#url() : this.#url;
      token = this.#token ? await this.#token(this.#renew) : null;
    } catch (error) {
      if (attempt !== this.#attempt || this.#closed) return;
      if (error.final) this.close(error);
      else this.#again({ pauseMs: pause(this.#tries++, this.#random()) });
      return;
    }
    if (attempt !== this.#attempt || this.#closed) return;
    this.#renew = false;
    let socket;
    try {
      socket = new WebSocket(url, token ? ["dougong", `bearer.${token}`] : ["dougong"]);
    } catch (error) { // no such address, or ws: from a page of https: it would be the same the next time
      this.close(new LiveError("bad_address", `cannot connect to ${url}: ${error.message}`));
      return;
    }
    let opened = 0;
    this.#socket = socket;
    this.#timer = setTimeout(() => socket === this.#socket && this.#ended(1006, "", opened), OPEN_MS);
    socket.onopen = () => {
      if (socket !== this.#socket) return;
      clearTimeout(this.#timer);
      this.#timer = null;
      opened = performance.now();
      this.#open = true;
      for (const topic of this.#topics.keys()) this.#subscribe(topic);
      this.#tell({ name: "open" });
    };
    socket.onmessage = (event) => socket === this.#socket && this.#hear(event.data);
    socket.onclose = (event) => socket === this.#socket && this.#ended(event.code, event.reason, opened);
  }

  #ended(code, reason, opened) {
    this.#leave();
    if (opened && performance.now() - opened >= STEADY_MS) this.#tries = 0;
    // A browser does not say why a handshake was refused: it may have been the token. One new one for each outage.
    const renew = !opened && !this.#renewed;
    this.#renewed = !opened;
    const next = afterClose(code, reason, this.#tries, this.#random());
    this.#tries += 1;
    if (next.error) this.close(next.error);
    else this.#again({ renew, ...next });
  }

  #again({ pauseMs, renew = false, told = false }) {
    this.#renew ||= renew;
    this.#told = told;
    this.#tell({ name: "waiting", againMs: pauseMs });
    this.#timer = setTimeout(() => this.#connect(), pauseMs);
  }

  /** The network is back, or somebody looks: do not let him wait. What the server asked for is kept to, though. */
  #wake() {
    if (this.#closed || document.visibilityState === "hidden") return;
    if (!this.#socket && this.#timer !== null && !this.#told) {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#connect(), this.#random() * FIRST_MS);
    } else if (this.#open && this.#probe === null) {
      // It may have died while the machine slept, and nobody would say so: ask for something small.
      const socket = this.#socket, id = ++this.#serial;
      const timer = setTimeout(() => socket === this.#socket && this.#ended(1006, "", 1), PROBE_MS);
      this.#probe = { id, timer };
      this.#send({ kind: "unsubscribe", id, topic: "-" });
    }
  }

  #leave() {
    const socket = this.#socket;
    this.#socket = null;
    this.#open = false;
    clearTimeout(this.#timer);
    clearTimeout(this.#probe?.timer);
    this.#probe = null;
    this.#asked.clear();
    for (const follower of this.#topics.values()) follower.ask();
    for (const { reject, timer } of this.#calls.values()) {
      clearTimeout(timer);
      reject(new LiveError("connection_lost", "the connection ended first; the outcome is unknown"));
    }
    this.#calls.clear();
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #subscribe(topic) {
    const follower = this.#topics.get(topic);
    if (!follower || !this.#open) return;
    const id = ++this.#serial, offset = follower.ask();
    for (const [earlier, asked] of this.#asked) if (asked === topic) this.#asked.delete(earlier);
    this.#asked.set(id, topic);
    this.#send({ kind: "subscribe", id, topic, ...(offset && { offset }) });
  }

  #hear(text) {
    const said = JSON.parse(text);
    const follower = this.#topics.get(said.topic);
    if (said.kind === "message" && follower) {
      if (follower.message(said.data, said.offset)) this.#subscribe(said.topic);
    } else if (said.kind === "subscribed" && this.#asked.delete(said.id) && follower) {
      if (follower.answered(said.offset, said.complete)) this.#subscribe(said.topic);
    } else if (said.kind === "lost" && follower) this.#subscribe(said.topic);
    else if (said.kind === "answer" || said.kind === "refused") this.#answered(said);
  }

  #answered(said) {
    if (this.#probe?.id === said.id) {
      clearTimeout(this.#probe.timer);
      this.#probe = null;
      return;
    }
    const call = this.#calls.get(said.id), topic = this.#asked.get(said.id);
    this.#calls.delete(said.id);
    this.#asked.delete(said.id);
    clearTimeout(call?.timer);
    if (said.kind === "answer") return void call?.resolve(said.data);
    const error = new LiveError(said.code, said.message, { fields: said.fields, retryAfterS: said.retry_after_s });
    call?.reject(error);
    const follower = this.#topics.get(topic);
    if (!follower) return;
    if (["unavailable", "overloaded", "deadline_exceeded"].includes(said.family)) {
      setTimeout(() => this.#subscribe(topic), (said.retry_after_s ?? 0.5) * 1000 * (1 + this.#random()));
    } else {
      this.#topics.delete(topic);
      follower.hand.refused?.(error);
    }
  }
}
