// The page: its head, and one of its three parts.
import { effect } from '@preact/signals';
import { render } from 'preact';
import { AdaptersPage } from './pages/AdaptersPage';
import { ChatPage } from './pages/ChatPage';
import { SweepPage } from './pages/SweepPage';
import { Header } from './parts/Header';
import { catalogue, loadCatalogue } from './state/catalogue';
import { key } from './state/key';
import { type Page, page } from './state/route';
import { beginWith, keepKnown } from './state/settings';
import { T } from './texts';
import './styles/colours.css';
import './styles/base.css';
import './styles/controls.css';
import './styles/pages.css';

const SHOWN: Record<Page, () => preact.JSX.Element> = {
  chat: ChatPage,
  sweep: SweepPage,
  adapters: AdaptersPage,
};

function App() {
  const Shown = SHOWN[page.value];
  return (
    <>
      <Header />
      <main id="main" tabIndex={-1}>
        <Shown />
      </main>
    </>
  );
}

effect(() => {
  document.title = `${T.pages[page.value]} · ${T.title}`;
});
// With another key, what may be asked for may be another.
effect(() => {
  void key.value;
  void loadCatalogue();
});

let hasBegun = false;
catalogue.subscribe((known) => {
  if (!known) return;
  if (hasBegun) keepKnown(known);
  else beginWith(known);
  hasBegun = true;
});

render(<App />, document.getElementById('app')!);
