/** What goes over the wire, as far as the page uses it. */

export type Weights = Record<string, number>;

export interface Reward {
  name: string;
  description: string;
  default: number;
  range: [number, number];
}

export interface Preferences {
  data: Reward[];
  methods: { name: string; parameters: Record<string, unknown> }[];
  presets: Record<string, Weights>;
}

export interface Message {
  role: "user" | "assistant";
  content: string;
}

export interface Guidance {
  beta?: number;
  max_kl?: number;
  report?: "summary" | "tokens";
}

export interface ChatBody {
  model: string;
  messages: Message[];
  preferences: Weights;
  guidance?: Guidance;
  temperature?: number;
  seed?: number;
  max_tokens?: number;
  stream?: boolean;
  logprobs?: boolean;
  top_logprobs?: number;
  continue_final_message?: boolean;
}

export interface GuidedToken {
  token: string;
  kl: number;
  base_logprob: number;
  rewards: Weights;
  base_top: string;
  /** What max_kl left of the weights, where it was given. */
  scale?: number;
}

export interface Chunk {
  id: string;
  choices: {
    delta: { content?: string | null };
    finish_reason: string | null;
    logprobs: { content: { logprob: number; top_logprobs: { token: string }[] }[] } | null;
    guidance?: { tokens: GuidedToken[] };
  }[];
}

export interface Completion {
  choices: { message: { content: string }; finish_reason: string }[];
  usage: { completion_tokens: number };
  guidance: { mean_kl: number | null; rewards: Weights; base_logprob: number };
}

export interface Changed {
  at_token: number;
  preferences: Weights;
}
