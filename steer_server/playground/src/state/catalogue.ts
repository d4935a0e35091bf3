// What may be asked for now, as the server says: cultures, value axes, heads, methods, limits and models.
import { signal } from '@preact/signals';
import type { Catalogue, ModelCard } from '../api/types';
import { type ApiError, asApiError, getJson } from '../api/client';

export const catalogue = signal<Catalogue | null>(null);
export const catalogueError = signal<ApiError | null>(null);
/** Models that stand for themselves: not those that name a culture or a preset. */
export const models = signal<string[]>([]);
export const model = signal('');

export async function loadCatalogue(): Promise<void> {
  try {
    const [found, cards] = await Promise.all([
      getJson<Catalogue>('/v1/steering'),
      getJson<{ data: ModelCard[] }>('/v1/models'),
    ]);
    models.value = cards.data.filter((card) => !card.parent).map((card) => card.id);
    if (!models.value.includes(model.value)) model.value = models.value[0] ?? '';
    catalogue.value = found;
    catalogueError.value = null;
  } catch (error) {
    catalogueError.value = asApiError(error);
  }
}
