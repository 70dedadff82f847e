import { render } from "preact";
import "./style.css";
import { Playground } from "./playground";
import { Page } from "./view/page";

const playground = new Playground();
render(<Page playground={playground} />, document.getElementById("page")!);
playground.connection.look();
