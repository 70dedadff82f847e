import { useEffect, useState } from "preact/hooks";
import type { Connection } from "../connection";
import { keep, recall } from "../kept";
import type { View } from "./page";

const STATES = {
  connecting: "connecting",
  loading: "models are loading",
  key: "needs a key",
  ready: "ready",
  offline: "offline, trying again",
};

export function Head({ connection, view }: { connection: Connection; view: View }) {
  return (
    <header class="head">
      <a class="skip" href="#chat" onClick={() => setTimeout(() => document.getElementById("question")?.focus())}>
        Skip to the question
      </a>
      <span class="brand">
        <Mark />
        genarm
      </span>
      {connection.model && <span class="model">{connection.model}</span>}
      <span class={`state ${connection.phase}`} role="status">
        {STATES[connection.phase]}
      </span>
      <nav aria-label="Views">
        <a href="#chat" aria-current={view === "chat" ? "page" : undefined}>
          Chat
        </a>
        <a href="#map" aria-current={view === "map" ? "page" : undefined}>
          Map
        </a>
      </nav>
      <Theme />
    </header>
  );
}

function Mark() {
  return (
    <svg class="logo" viewBox="0 0 24 24" aria-hidden="true">
      <path class="hue-0" d="M2 6h20" />
      <path class="hue-1" d="M2 12h20" />
      <path class="hue-2" d="M2 18h20" />
      <circle class="hue-0" cx="15" cy="6" r="3" />
      <circle class="hue-1" cx="7" cy="12" r="3" />
      <circle class="hue-2" cx="18" cy="18" r="3" />
    </svg>
  );
}

function Theme() {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const [theme, set] = useState<string | null>(recall(localStorage, "theme", null));
  useEffect(() => {
    if (theme === null) return;
    document.documentElement.dataset["theme"] = theme;
    keep(localStorage, "theme", theme);
  }, [theme]);
  const other = (theme ?? system) === "dark" ? "light" : "dark";
  return (
    <button type="button" class="quiet" onClick={() => set(other)}>
      {other === "dark" ? "Dark" : "Light"}
      <span class="unseen"> theme</span>
    </button>
  );
}
