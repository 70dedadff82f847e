import { useEffect, useReducer } from "preact/hooks";

/** State with one owner; who watches is told of changes, at most once a frame's time. */
export class Observable {
  private readonly watchers = new Set<() => void>();
  private pending = false;

  watch(watcher: () => void): () => void {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  protected changed(): void {
    if (this.pending) return;
    this.pending = true;
    // A timer rather than an animation frame: those stop in a tab that is not seen.
    setTimeout(() => {
      this.pending = false;
      for (const watcher of this.watchers) watcher();
    }, 16);
  }
}

/** Renders the component anew whenever `state` changes. */
export function useWatched(state: Observable): void {
  const [, again] = useReducer((count: number, _: void) => count + 1, 0);
  useEffect(() => state.watch(() => again()), [state]);
}
