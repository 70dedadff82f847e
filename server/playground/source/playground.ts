import { Connection } from "./connection";
import { Conversation } from "./conversation";
import demo from "./demo.json";
import { Settings, STRONGEST } from "./settings";
import { Sweep } from "./sweep";
import { Weighing } from "./weighing";

/** Everything the page knows; each part owns its own state. */
export class Playground {
  readonly settings = new Settings();
  readonly weighing: Weighing = new Weighing((weights) => this.conversation.steer(weights));
  readonly connection = new Connection((preferences) => this.weighing.offer(preferences));
  readonly conversation: Conversation = new Conversation(
    this.connection,
    this.settings,
    () => this.weighing.weights,
    () => this.paced,
  );
  readonly sweep = new Sweep(this.connection, () => this.settings.choices);

  /** Questions worth asking the model that is served. */
  get suggestions(): string[] {
    return this.isDemo ? demo.prompts : [];
  }

  /** The demo's models write faster than anybody reads. */
  get paced(): boolean {
    return this.settings.choices.paced ?? this.isDemo;
  }

  /** What words may be tinted by: STRONGEST, a reward, "" for nothing. */
  get tints(): string[] {
    const names = this.weighing.rewards.map((reward) => reward.name);
    return [...(names.length > 1 ? [STRONGEST] : []), ...names, ""];
  }

  get tint(): string {
    const { tint } = this.settings.choices;
    return tint !== null && this.tints.includes(tint) ? tint : this.tints[0]!;
  }

  private get isDemo(): boolean {
    return this.connection.model === demo.model;
  }
}
