// What may be asked for now, as the server says: cultures, value axes, heads, methods, limits and models.
import { signal } from '@preact/signals';
import type { Catalogue, ModelCard } from '../api/types';
import { getJson } from '../api/client';
import type { ApiError } from '../api/errors';
import { byLastCall } from '../api/lastCall';

export const catalogue = signal<Catalogue | null>(null);
export const catalogueError = signal<ApiError | null>(null);
/** Models that stand for themselves: not those that name a culture or a preset. */
export const models = signal<string[]>([]);
export const model = signal('');

export const loadCatalogue = byLastCall(
  () => Promise.all([getJson<Catalogue>('/v1/steering'), getJson<{ data: ModelCard[] }>('/v1/models')]),
  ([found, cards]) => {
    models.value = cards.data.filter((card) => !card.parent).map((card) => card.id);
    if (!models.value.includes(model.value)) model.value = models.value[0] ?? '';
    catalogue.value = found;
    catalogueError.value = null;
  },
  (error) => (catalogueError.value = error),
);
