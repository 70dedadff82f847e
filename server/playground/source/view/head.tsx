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

interface HeadProps {
  connection: Connection;
  view: View;
  /** Whether there is something to use yet. */
  inside: boolean;
}

export function Head({ connection, view, inside }: HeadProps) {
  return (
    <header class="head">
      {inside && (
        <a class="skip" href="#question" onClick={() => setTimeout(() => document.getElementById("question")?.focus())}>
          Skip to the question
        </a>
      )}
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
    <button type="button" class="quiet" title={`Change to ${other}`} onClick={() => set(other)}>
      <svg class="theme" viewBox="0 0 24 24" aria-hidden="true">
        {other === "dark" ? (
          <path d="M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z" />
        ) : (
          <path d="M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2m0 16v2M2 12h2m16 0h2M4.9 4.9l1.4 1.4m11.4 11.4 1.4 1.4M4.9 19.1l1.4-1.4M17.7 6.3l1.4-1.4" />
        )}
      </svg>
      <span class="unseen">{other === "dark" ? "Dark" : "Light"} theme</span>
    </button>
  );
}
