//! Orders that have aged, and the messages that brought them, go. Messages that were refused stay: they are for
//! a person to look at and replay.

use std::time::Duration;

use rusqlite::params;
use serde_json::json;
use tokio::sync::watch;

use crate::audit::{Event, EventKind};
use crate::store::ledger::{Ledger, LedgerError, Writer};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(600);
/// Rows of each kind that one transaction removes.
const AT_ONCE: u32 = 500;
const DAY_MS: i64 = 86_400_000;

/// Removes what is older than `keep_days`, until `stop` turns true.
pub async fn run(ledger: Ledger, keep_days: u64, mut stop: watch::Receiver<bool>) {
    let keep_ms = i64::try_from(keep_days).unwrap_or(i64::MAX).saturating_mul(DAY_MS);
    loop {
        match ledger.write(move |writer| forget(writer, writer.now_ms().saturating_sub(keep_ms))).await {
            Ok(0) => {}
            Ok(_) => continue,
            Err(error) => tracing::error!(reason = error.to_string(), "aged orders cannot be removed"),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stop.changed() => return,
        }
    }
}

/// Removes some of what is older; yields how many rows.
fn forget(writer: &Writer<'_>, before: i64) -> Result<usize, LedgerError> {
    let tx = writer.tx();
    let orders = tx
        .prepare_cached(
            "DELETE FROM orders WHERE id IN (SELECT id FROM orders WHERE updated_at < ?1 ORDER BY updated_at LIMIT ?2)",
        )?
        .execute(params![before, AT_ONCE])?;
    let messages = tx
        .prepare_cached(
            "DELETE FROM orders_inbox WHERE id IN (SELECT i.id FROM orders_inbox i
                WHERE i.received_at < ?1 AND i.state = 'applied'
                    AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.message_id = i.id)
                ORDER BY i.received_at LIMIT ?2)",
        )?
        .execute(params![before, AT_ONCE])?;
    if orders + messages > 0 {
        let detail = json!({ "orders": orders, "messages": messages });
        writer.audit(&Event::new(EventKind::OrdersRemoved, "orders", detail))?;
    }
    Ok(orders + messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::Fixture;

    #[test]
    fn aged_orders_and_their_messages_go_and_refused_messages_stay() {
        let fixture = Fixture::new();
        let sql = |sql: String| {
            fixture
                .ledger
                .write_blocking(move |writer| Ok(writer.tx().execute_batch(&sql)?))
                .expect("written");
        };
        for (id, at, state) in
            [(1, 10, "applied"), (2, 10, "refused"), (3, 90, "applied"), (4, 20, "applied")]
        {
            sql(format!(
                "INSERT INTO orders_inbox VALUES ({id}, {at}, 'ris', '', 'M{id}', '', '', '{state}', '', 1, x'00')"
            ));
        }
        // The order of message 4 was changed since by no message, but is young enough to keep its message.
        for (id, message, at) in [(1, 1, 10), (2, 3, 90), (3, 4, 60)] {
            sql(format!(
                "INSERT INTO orders VALUES ({id}, 'ris', {message}, 'NW', '', '', '', '', '', '', 0, '', '', '{{}}', '',
                    NULL, NULL, {at}, {at})"
            ));
        }
        let forget = || fixture.ledger.write_blocking(|writer| forget(writer, 50)).expect("removed");
        assert_eq!((forget(), forget()), (2, 0));
        let left = |table: &str| {
            let sql = format!("SELECT group_concat(id) FROM (SELECT id FROM {table} ORDER BY id)");
            fixture
                .ledger
                .read_blocking(move |reader| Ok(reader.query_row(&sql, [], |row| row.get::<_, String>(0))?))
        };
        assert_eq!(left("orders").expect("read"), "2,3");
        assert_eq!(left("orders_inbox").expect("read"), "2,3,4");
    }
}
