import { CUT, givenUp, OFFLINE, Problem } from "./problem";
import type { Changed, ChatBody, Chunk, Completion, Preferences, Weights } from "./wire";

const CHATS = "v1/chat/completions";

/** The server's public API; every failure is a Problem, giving a request up is an AbortError. */
export class Api {
  constructor(private readonly key: () => string) {}

  /** Whether requests are taken, loading goes on, or nobody answers. */
  async state(): Promise<"ready" | "loading" | "offline"> {
    try {
      const response = await fetch("ready", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      return response.ok ? "ready" : "loading";
    } catch {
      return "offline";
    }
  }

  preferences(): Promise<Preferences> {
    return this.json("GET", "v1/preferences");
  }

  /** The id of the served model, of which presets are further ids. */
  async model(): Promise<string> {
    const models = await this.json<{ data: { id: string }[] }>("GET", "v1/models");
    return models.data[0]?.id ?? "";
  }

  complete(body: ChatBody, signal: AbortSignal): Promise<Completion> {
    return this.json("POST", CHATS, body, signal);
  }

  change(id: string, preferences: Weights): Promise<Changed> {
    return this.json("PATCH", `${CHATS}/${encodeURIComponent(id)}`, { preferences });
  }

  /** The chunks of an answer as they come; ends after [DONE]. */
  async *stream(body: ChatBody, signal: AbortSignal): AsyncGenerator<Chunk> {
    const response = await this.send("POST", CHATS, { ...body, stream: true }, signal);
    for await (const data of events(response)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data) as Chunk & { error?: ErrorDetail };
      if (event.error) throw new Problem(event.error.message, response.status, event.error.code);
      yield event;
    }
    throw new Problem(CUT, 0);
  }

  private async json<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
    const response = await this.send(method, path, body, signal);
    return (await reached(() => response.json())) as T;
  }

  private async send(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = {};
    if (this.key()) headers["Authorization"] = `Bearer ${this.key()}`;
    const init: RequestInit = { method, headers, cache: "no-store", credentials: "omit" };
    if (body !== undefined) {
      headers["Content-Type"] = "application/json";
      init.body = JSON.stringify(body);
    }
    if (signal) init.signal = signal;
    const response = await reached(() => fetch(path, init));
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

interface ErrorDetail {
  message: string;
  code: string | null;
}

async function refusal(response: Response): Promise<Problem> {
  const after = Number(response.headers.get("Retry-After"));
  const body = (await response.json().catch(() => null)) as { error?: ErrorDetail } | null;
  const message = body?.error?.message ?? `The server answered ${response.status}.`;
  return new Problem(message, response.status, body?.error?.code ?? null, after > 0 ? after : null);
}

/** What `ask` gives; not reaching the server is a Problem. */
async function reached<T>(ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    throw givenUp(error) ? error : new Problem(OFFLINE, 0);
  }
}

/** The data of each server-sent event. */
async function* events(response: Response): AsyncGenerator<string> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await readOn(reader);
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop() ?? "";
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trimStart();
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

async function readOn(reader: ReadableStreamDefaultReader<string>): Promise<ReadableStreamReadResult<string>> {
  try {
    return await reader.read();
  } catch (error) {
    throw givenUp(error) ? error : new Problem(CUT, 0);
  }
}
