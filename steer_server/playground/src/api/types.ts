// What the server sends, as far as this page reads it.

export type Weights = Record<string, number>;

/** The request's `steering` object. */
export interface Steering {
  method?: string;
  cultures?: Weights;
  values?: Weights;
  strength?: number;
  reward_heads?: string[];
  options?: Record<string, unknown>;
}

export interface Culture {
  id: string;
  description: string;
  countries: string[];
  adapter: string;
}

export interface ValueAxis {
  id: string;
  description: string;
  adapter: string;
}

export interface RewardHead {
  id: string;
  description: string;
  meaning: string;
  culture: string | null;
  adapter: string;
}

export interface Policy {
  min_weight: number;
  max_weight: number;
  max_strength: number;
  max_adapters: number;
  max_candidates: number;
  max_loops?: number;
  value_floors: Weights;
}

/** What rewrites prompts for align_pro. */
export interface Prompter {
  id: string;
  description: string;
  aim: string;
  adapter: string;
}

/** `GET /v1/steering`. */
export interface Catalogue {
  cultures: Culture[];
  values: ValueAxis[];
  reward_heads: RewardHead[];
  prompters?: Prompter[];
  presets: { id: string; steering: Steering }[];
  methods: string[];
  policy: Policy;
}

export interface Applied {
  adapter: string;
  weight: number;
}

/** `POST /v1/steering/plan`. */
export interface Plan {
  plan: string;
  method: string;
  applied: Applied[];
  values: Weights;
  reward_heads?: Record<string, string>;
}

export type HeadScores = Record<string, { raw: number; calibrated: number }>;

export interface Rewards {
  heads?: Record<string, string>;
  scores?: (HeadScores | null)[];
  cut?: boolean[];
  weights?: Weights;
  candidates?: { scores: HeadScores | null; aggregate: number | null; choice: number | null }[];
}

/** What became of the prompt, by align_pro. */
export interface Rewrite {
  status: string;
  reason: string | null;
  detail: string | null;
}

/** What became of the draft, by diffpo. Scores are in nats per token. */
export interface Denoising {
  outcome: string;
  reason: string | null;
  loops: number;
  changed_share: number;
  draft: string;
  /** Of the guard, how often. */
  candidates?: Record<string, number>;
  draft_scores?: { log_likelihood: number; log_ratio: number };
  answer_scores?: { log_likelihood: number; log_ratio: number };
}

/** The response's `steering` object. */
export interface AppliedSteering extends Plan {
  rewards?: Rewards;
  timings_ms?: Record<string, number>;
  /** What was sent in place of the last message, by align_pro. */
  prompt?: string | null;
  rewrite?: Rewrite;
  denoising?: Denoising;
}

export interface ModelCard {
  id: string;
  parent?: string | null;
}

export interface Message {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

/** `POST /v1/chat/completions`. */
export interface ChatRequest {
  model: string;
  messages: Message[];
  max_tokens: number;
  temperature: number;
  seed?: number;
  steering: Steering;
}

/** One version of an adapter, or a folder that was refused: then `version` and `digest` are missing. */
export interface AdapterVersion {
  name: string;
  state: string;
  version?: string;
  kind?: string;
  digest?: string;
  base_model?: string;
  description?: string;
  licence?: string;
  size_bytes?: number;
  signature?: string | null;
  pushed_by?: string;
  created_at?: string;
  culture?: string;
  axes?: string[];
  head?: string;
  reason?: string;
  detail?: string;
  problem?: string;
}

/** One row of `GET /v1/audit`. */
export interface Act {
  id: number;
  at: string;
  actor: string;
  action: string;
  outcome?: string;
  name?: string | null;
  version?: string | null;
  detail?: unknown;
}
