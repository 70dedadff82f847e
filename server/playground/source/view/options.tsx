import { useId } from "preact/hooks";
import type { Playground } from "../playground";

/** What a question is asked with, besides the weights. */
export function Options({ playground }: { playground: Playground }) {
  const { settings } = playground;
  const { choices } = settings;
  const capped = "max_kl" in (playground.connection.preferences?.methods[0]?.parameters ?? {});
  return (
    <div class="options">
      <Field
        label="Temperature"
        value={choices.temperature}
        min={0}
        max={2}
        step={0.1}
        set={(temperature) => settings.set({ temperature: temperature ?? 1 })}
      />
      <Field
        label="Seed"
        note="empty: another one for every question"
        value={choices.seed}
        step={1}
        set={(seed) => settings.set({ seed: seed === null ? null : Math.trunc(seed) })}
      />
      <Field
        label="Most tokens"
        value={choices.maxTokens}
        min={1}
        step={1}
        set={(most) => settings.set({ maxTokens: Math.max(1, Math.trunc(most ?? 256)) })}
      />
      <Field
        label="β"
        note="divides every weight"
        value={choices.beta}
        min={0.01}
        step={0.1}
        set={(beta) => settings.set({ beta: beta !== null && beta > 0 ? beta : 1 })}
      />
      {capped && (
        <Field
          label="Most KL per token"
          note="nats; scales weights down where they would push further; empty: no limit"
          value={choices.maxKl}
          min={0}
          step={0.5}
          set={(limit) => settings.set({ maxKl: limit !== null && limit >= 0 ? limit : null })}
        />
      )}
      <label class="check">
        <input
          type="checkbox"
          checked={playground.paced}
          onChange={(event) => settings.set({ paced: event.currentTarget.checked })}
        />
        Show words at reading pace
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={choices.compare}
          onChange={(event) => settings.set({ compare: event.currentTarget.checked })}
        />
        Let the base answer beside
      </label>
    </div>
  );
}

interface FieldProps {
  label: string;
  note?: string;
  value: number | null;
  min?: number;
  max?: number;
  step: number;
  set: (value: number | null) => void;
}

function Field({ label, note, value, min, max, step, set }: FieldProps) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        id={id}
        type="number"
        value={value ?? ""}
        min={min}
        max={max}
        step={step}
        aria-describedby={note ? `${id}-note` : undefined}
        onChange={(event) => {
          const typed = event.currentTarget.valueAsNumber;
          set(Number.isFinite(typed) ? typed : null);
        }}
      />
      {note && (
        <p class="note" id={`${id}-note`}>
          {note}
        </p>
      )}
    </div>
  );
}
