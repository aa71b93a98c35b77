//! Chromium, controlled by a small Node.js program.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, unreachable_pub)]

use std::{
    io::{BufRead, BufReader, Lines, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

const INSTALL: &str = "install it: scripts/install-browser (apt-get install -y chromium nodejs npm, and \
                       npm ci --prefix bins/prb/tests/js)";

pub struct Browser {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    pub async fn start() -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
        assert!(dir.join("node_modules/playwright-core").is_dir(), "playwright-core is missing; {INSTALL}");
        let chromium = std::env::var("PRB_TEST_CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
        assert!(Path::new(&chromium).is_file(), "{chromium} is missing; {INSTALL}");
        let mut child = Command::new("node")
            .arg(dir.join("browser.js"))
            .arg(&chromium)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("node cannot be run ({error}); {INSTALL}"));
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut browser = Self { child, input, output };
        assert_eq!(browser.answer().await, Ok("ready".into()));
        browser
    }

    /// Every call of a page ends within a minute.
    async fn answer(&mut self) -> Result<Value, String> {
        // Reading from the pipe blocks, and daemons of the test may run in this process.
        let line = tokio::task::block_in_place(|| self.output.next()).expect("the browser ended");
        let mut line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        match line.get_mut("error") {
            Some(error) => Err(error.as_str().unwrap().to_owned()),
            None => Ok(line["result"].take()),
        }
    }

    pub async fn attempt(&mut self, call: &str, args: &Value) -> Result<Value, String> {
        writeln!(self.input, "{}", json!({ "call": call, "args": args })).unwrap();
        self.answer().await
    }

    pub async fn call(&mut self, call: &str, args: Value) -> Value {
        match self.attempt(call, &args).await {
            Ok(result) => result,
            Err(error) => {
                let shown = self.attempt("evaluate", &json!(["document.body.innerText"])).await;
                panic!("{call} {args}: {error}\nwhat was shown: {shown:?}")
            }
        }
    }

    pub async fn open(&mut self, url: &str) {
        self.call("goto", json!([url])).await;
    }

    pub async fn evaluate(&mut self, expression: &str) -> Value {
        self.call("evaluate", json!([expression])).await
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, expression: &str) {
        self.call("until", json!([expression])).await;
    }

    /// Waits until an element shows a text.
    pub async fn until_shows(&mut self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.until(&format!("document.querySelector({selector})?.textContent.includes({text})")).await;
    }

    pub async fn click(&mut self, selector: &str) {
        self.call("click", json!([selector])).await;
    }

    /// Takes a screenshot if PRB_TEST_PICTURES names a folder.
    pub async fn picture(&mut self, name: &str) {
        if let Ok(folder) = std::env::var("PRB_TEST_PICTURES") {
            let path = format!("{folder}/{name}.png");
            self.call("screenshot", json!([{ "path": path, "fullPage": true }])).await;
        }
    }

    /// Returns the browser's errors: of the script, and violations of the content security policy.
    pub async fn complaints(&mut self) -> Vec<String> {
        serde_json::from_value(self.call("complaints", json!([])).await).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The program closes its browser at the end of its input; killing it would leave the browser running.
        let _ = self.input.write_all(b"{\"call\":\"end\",\"args\":[]}\n");
        let _ = self.child.wait();
    }
}
