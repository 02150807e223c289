"""A person at the pages of Prefect, MLflow and Optuna, in Chromium, against the real servers.

With MLML_SCREENSHOTS set to a folder, what the person sees is kept there.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from project import declaration

pytestmark = pytest.mark.soak

SECONDS = 420.0

DECLARED = declaration(
    "steps: 40, batch_size: 64, log_every: 2, evaluate_every: 10, checkpoint_every: 10",
    """
pretext:
  random: {method: random, dataset: digits, encoder: *encoder}
  simclr: {method: simclr, dataset: digits, encoder: *encoder, train: *train, temperature: 0.5}
  rotation: {method: rotation, dataset: digits, encoder: *encoder, train: *train}
probe:
  random_knn: {method: knn, dataset: digits, encoder: random}
  simclr_knn: {method: knn, dataset: digits, encoder: simclr}
generative: {}
supervised:
  classifier: {method: classifier, dataset: digits, encoder: *encoder, train: *train}
""",
    trials=4,
)
STAGES = ("check", "prepare@digits", "pretext@simclr", "pretext@rotation", "probe@simclr_knn", "report")


def installed() -> str:
    """Install Debian's Chromium if need be and possible; returns why not, or "" where it is there."""
    programs = ("chromium", "chromedriver")
    if all(shutil.which(program) for program in programs):
        return ""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "Chromium and its driver are not installed, and only root can install Debian's packages"
    for words in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", "chromium", "chromium-driver"]):
        done = subprocess.run(["apt-get", *words], capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            return f"apt-get {words[0]} failed: {done.stderr.strip()[-300:]}"
    return ""


class Person:
    """A browser, and eyes that wait."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def until(self, happened: Callable[[], Any], what: str) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException, WebDriverException

        deadline = time.monotonic() + SECONDS
        while True:
            try:
                found = happened()
            except (StaleElementReferenceException, WebDriverException):  # the page is drawing itself anew
                found = None
            if found:
                return found
            assert time.monotonic() < deadline, f"not seen: {what}\n{self.browser.current_url}\n{self.text()[-2000:]}"
            time.sleep(1.0)

    def text(self) -> str:
        return str(self.browser.execute_script("return document.body.innerText"))

    def sees(self, *texts: str) -> None:
        self.until(lambda: all(text in self.text() for text in texts), f"{texts}")

    def click(self, xpath: str) -> None:
        def clicked() -> bool:
            shown = [found for found in self.browser.find_elements("xpath", xpath) if found.is_displayed()]
            if shown:
                shown[-1].click()  # the innermost
            return bool(shown)

        self.until(clicked, xpath)

    def keeps(self, name: str) -> None:
        folder = os.environ.get("MLML_SCREENSHOTS")
        if folder:
            time.sleep(1.0)  # for what moves into its place
            self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture(scope="module")
def person() -> Iterator[Person]:
    webdriver = pytest.importorskip("selenium.webdriver")
    why_not = installed()
    if why_not:
        pytest.skip(why_not)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-quic", "--disable-background-networking"),
        *("--disable-dev-shm-usage", "--window-size=1280,900"),
    ):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield Person(browser)
    finally:
        browser.quit()


@pytest.fixture(scope="module")
def pages(project) -> Iterator[dict[str, str]]:
    """Addresses of the servers of a project of its own, whose deployments are served."""
    project.declare(DECLARED)
    project.run("git", "commit", "-qam", "Declare little")
    project.environment.pop("PREFECT_API_URL")
    try:
        said = project.run("mlml", "up")
        yield {title: next(line for line in said.splitlines() if line.startswith(title)).split()[1] for title in TITLES}
    finally:
        project.run("mlml", "down")


TITLES = ("Prefect:", "MLflow:", "Optuna:")


def test_a_run_from_the_form_with_an_override_and_a_comparison(person, pages, project):
    browser, before = person.browser, (project.folder / "params.yaml").read_text()
    browser.get(f"{pages['Prefect:']}/deployments")
    person.click("//a[normalize-space(.)='reproduce'][contains(@href, '/deployments/')]")
    person.click("//button[normalize-space(.)='Run']")
    person.click("//*[normalize-space(.)='Custom run']")
    person.sees("Overrides", "the run is an isolated experiment")
    person.click("//button[normalize-space(.)='Add item']")
    boxes = "//main//textarea | //form//textarea | //textarea"
    person.until(lambda: browser.find_elements("xpath", boxes), "a box for the override")[0].send_keys(
        "pretext.simclr.temperature=0.3"
    )
    person.keeps("prefect_form")
    person.click("//button[normalize-space(.)='Submit']")
    person.until(lambda: "tab=Runs" in browser.current_url, "the deployment's runs")
    link = "//a[contains(@href, '/runs/flow-run/')]"
    person.until(lambda: browser.find_elements("xpath", link), "a run")
    browser.get(browser.find_element("xpath", link).get_attribute("href"))
    person.sees("Running", "Running stage 'pretext@simclr'")
    person.keeps("prefect_running")
    page = browser.current_url
    browser.get("about:blank")  # the page draws without pause, which takes the processor from the run
    state = f"{pages['Prefect:']}/api/flow_runs/{page.partition('/flow-run/')[2].partition('?')[0]}"
    person.until(lambda: json.load(urlopen(state))["state_type"] not in ("RUNNING", "PENDING"), "the run's end")
    browser.get(page)
    ended = "//*[contains(@class, 'state-badge')][normalize-space(.)='Completed']"
    person.until(lambda: browser.find_elements("xpath", ended), "a completed run")
    person.click("//li[contains(@class, 'p-tab')][normalize-space(.)='Task Runs']")
    person.sees(*STAGES, "simclr-temperature-0.3")
    person.keeps("prefect_stages")
    person.click("//li[contains(@class, 'p-tab')][normalize-space(.)='Artifacts']")
    person.click("//a[contains(@href, '/artifacts/')]")
    person.sees("simclr-temperature-0.3", "probe@simclr_knn", "The report", "dvc exp apply")
    person.keeps("prefect_artifact")
    assert (project.folder / "params.yaml").read_text() == before

    browser.get(f"{pages['MLflow:']}/#/experiments/1/runs?searchFilter=metrics.%60train%2Floss%60%20%3E%200")
    cell = "//a[normalize-space(.)='{}']/ancestor::div[contains(concat(' ', @class, ' '), ' ag-{} ')][1]"
    for name in ("simclr", "rotation"):
        person.click(cell.format(f"pretext@{name}", "cell") + "//*[contains(@class, 'anticon')]")  # shows its seeds
        person.click(cell.format(f"{name} seed_0", "row") + "//*[contains(@class, 'ag-checkbox-input-wrapper')]")
    person.click("//button[@data-testid='runs-compare-button'][not(@disabled)]")
    person.sees("Comparing 2 Runs")
    person.click("//a[contains(@href, '#/metric')][normalize-space(.)='train/loss']")
    person.sees("simclr seed_0 (train/loss)", "rotation seed_0 (train/loss)")  # the legend
    curves = ".scatterlayer path.js-line"
    person.until(lambda: len(browser.find_elements("css selector", curves)) >= 2, "two curves")
    person.click("//*[normalize-space(text())='MLflow Assistant']/following::button[@aria-label='Close']")
    person.keeps("mlflow_compare")


def test_a_search_is_looked_at_while_it_runs_and_when_it_is_over(person, pages, project):
    browser = person.browser
    browser.get(f"{pages['Optuna:']}/dashboard")
    person.sees("Sort descending")
    running = project.start("dvc", "repro", "search@rate")

    def listed() -> bool:
        browser.refresh()
        time.sleep(2.0)
        return "search@rate" in person.text()

    person.until(listed, "the search")
    person.click("//a[contains(@href, '/dashboard/studies/')][contains(., 'search@rate')]")
    person.sees("History", "Hyperparameter Importance", "Timeline")
    assert running.wait(SECONDS) == 0
    page = browser.current_url
    browser.get(f"{page}/trials")
    person.sees("4 Trials", "Trial 3", "Complete", "Best Trial", "train.optimizer.learning_rate")
    browser.get(page)
    curve = ".scatterlayer path.js-line"
    person.until(lambda: browser.find_elements("css selector", curve), "the best value over the trials")
    person.keeps("optuna_search")
