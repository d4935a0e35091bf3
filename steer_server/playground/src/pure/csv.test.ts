import { expect, it } from 'vitest';
import { asCsv } from './csv';

it('quotes what needs it and leaves numbers as they are', () => {
  expect(asCsv([['a', 'b,"c"\nd'], [-0.5, null]])).toBe('a,"b,""c""\nd"\r\n-0.5,\r\n');
});

it('writes no text that a spreadsheet would run', () => {
  expect(asCsv([['=1+1', '@x', '-y', 'x=1']])).toBe("'=1+1,'@x,'-y,x=1\r\n");
});
