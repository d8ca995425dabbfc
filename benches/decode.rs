//! Decoding a client's message into commands.

use std::hint::black_box;

use benches::counted;
use benches::samples::{json, text};
use gungraun::{library_benchmark, library_benchmark_group};
use shared::command::Command;
use shared::protocol::Protocol;
use shared::protocol::centrifuge::json::CentrifugeJson;

fn connect() -> String {
    let token = "eyJhbGciOiJIUzI1NiJ9.".to_owned() + &"abcdefghijklmnop".repeat(12);
    format!(r#"{{"id":1,"connect":{{"token":"{token}","name":"js","version":"5.3.4"}}}}"#)
}

fn subscribe() -> String {
    r#"{"id":2,"subscribe":{"channel":"prices:AAPL","recover":true,"epoch":"abcdefgh","offset":123456,"flag":1}}"#
        .to_owned()
}

fn publish(bytes: usize) -> String {
    format!(r#"{{"id":3,"publish":{{"channel":"prices:AAPL","data":{}}}}}"#, json(bytes))
}

fn sixteen() -> String {
    vec![subscribe(); 16].join("\n")
}

#[library_benchmark]
#[bench::connect(args = (), setup = connect, config = counted(4_604))]
#[bench::subscribe(args = (), setup = subscribe, config = counted(4_587))]
#[bench::publish_128(args = (128), setup = publish, config = counted(4_787))]
#[bench::publish_4096(args = (4096), setup = publish, config = counted(20_666))]
#[bench::sixteen_subscribes(args = (), setup = sixteen, config = counted(68_462))]
#[bench::pong(args = ("{}"), setup = str::to_owned, config = counted(820))]
fn message(message: String) -> (String, Vec<Command>) {
    let mut commands = Vec::new();
    let decoded = CentrifugeJson::default().decode(text(black_box(&message)), &mut commands);
    assert!(decoded.is_ok());
    (message, commands)
}

library_benchmark_group!(name = decoding, benchmarks = [message]);
