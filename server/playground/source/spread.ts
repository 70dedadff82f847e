export interface Place {
  cx: number;
  cy: number;
}

/** Moves places apart that are closer than `apart`, along a spiral around where they belong; the first ones stay. */
export function spread(places: Place[], apart: number): Place[] {
  const taken: Place[] = [];
  for (const place of places) {
    let free = place;
    for (let turn = 1; taken.some((other) => distance(other, free) < apart); turn += 1) {
      const radius = apart * 0.5 * Math.sqrt(turn);
      free = { cx: place.cx + radius * Math.cos(turn * 2.4), cy: place.cy + radius * Math.sin(turn * 2.4) };
    }
    taken.push(free);
  }
  return taken;
}

function distance(one: Place, other: Place): number {
  return Math.hypot(one.cx - other.cx, one.cy - other.cy);
}
