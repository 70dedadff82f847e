/** What went wrong, in the server's own words where it had any. */
export class Problem extends Error {
  constructor(
    message: string,
    /** The HTTP status; 0 where the server was not reached. */
    readonly status: number,
    readonly code: string | null = null,
    /** Seconds after which to try again, where the server said so. */
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }

  get offline(): boolean {
    return this.status === 0;
  }
}

export const OFFLINE = "The server cannot be reached.";
export const CUT = "The connection ended before the answer did.";

/** Whether `error` is the page's own doing: it gave a request up. */
export function givenUp(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

export function asProblem(error: unknown): Problem {
  return error instanceof Problem ? error : new Problem(String(error), -1);
}
