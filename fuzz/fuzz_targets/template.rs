//! Texts of conditional writes, on a real server.

#![no_main]

use std::sync::LazyLock;

use support::{Server, hostile::template::Judge};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().unwrap());

static JUDGE: LazyLock<Judge> = LazyLock::new(|| {
    let server = Server::shared();
    RUNTIME.block_on(async {
        let database = server.create_database("fuzz").await.unwrap();
        Judge::new(&database).await
    })
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    RUNTIME.block_on(JUDGE.check(&text));
});
