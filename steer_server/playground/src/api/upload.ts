// Sending a package: with XMLHttpRequest, because fetch does not say how much has been sent.
import type { AdapterVersion } from './types';
import { address, headers } from './client';
import { ApiError, errorOf } from './errors';
import { T } from '../texts';

/** The version that the package became. Args: onSent: called with the share of bytes sent. Throws: ApiError. */
export function uploadPackage(
  file: File,
  activate: boolean,
  onSent: (share: number) => void,
): Promise<AdapterVersion> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open('POST', address(`/v1/adapters${activate ? '?activate=true' : ''}`));
    for (const [name, value] of Object.entries(headers({ 'Content-Type': contentType(file.name) }))) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = (event) => onSent(event.total > 0 ? event.loaded / event.total : 0);
    request.upload.onload = () => onSent(1);
    request.onerror = () => reject(new ApiError(T.errors.unreachable, 0));
    request.onload = () => {
      if (request.status === 201) resolve(JSON.parse(request.responseText) as AdapterVersion);
      else reject(errorOf(request.status, request.responseText, request.getResponseHeader('Retry-After')));
    };
    request.send(file);
  });
}

function contentType(fileName: string): string {
  if (fileName.endsWith('.zip')) return 'application/zip';
  return fileName.endsWith('.tar') ? 'application/x-tar' : 'application/gzip';
}
