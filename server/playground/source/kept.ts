/** What this browser keeps for the page. A browser that keeps nothing is no error: the page then forgets. */

export function recall<T>(store: Storage, name: string, otherwise: T): T {
  try {
    const text = store.getItem(`genarm.${name}`);
    return text === null ? otherwise : (JSON.parse(text) as T);
  } catch {
    return otherwise;
  }
}

export function keep(store: Storage, name: string, value: unknown): void {
  try {
    store.setItem(`genarm.${name}`, JSON.stringify(value));
  } catch {
    // Full or forbidden.
  }
}
