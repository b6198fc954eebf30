//! Replies to operators: bundles, pages, changes. What they bring decides what comes next.

use omnirelay_net::messages::{ChangeResult, PendingItem};
use omnirelay_net::rpc::{Error, Reply};
use rand::Rng;

use crate::checker::Moment;
use crate::client::{Intent, is_whole};
use crate::hits::Fault;
use crate::violation::{Violation, broken};
use crate::world::{OpenCall, World};

impl World {
    /// A reply to an operator has left.
    pub(crate) fn hear_operator(
        &mut self,
        at: Moment,
        call: &OpenCall,
        reply: &Result<Reply, Error>,
        lost: bool,
    ) -> Result<(), Violation> {
        match (&call.intent, reply) {
            (Intent::Drain { .. }, Ok(Reply::Drain(bundle))) => {
                self.hear_bundle(at, call, &bundle.items, lost)
            }
            (
                Intent::Restore {
                    space,
                    items,
                    again,
                },
                Ok(Reply::Restore(done)),
            ) => {
                self.hits.hit(if *again {
                    Fault::RestoredAgain
                } else {
                    Fault::Restored
                });
                let sum = (done.restored_count + done.duplicate_count) as usize;
                broken(sum != items.len(), "a restore counts every item", || {
                    format!("{done:?} of {}", items.len())
                })?;
                self.checker
                    .restored(at, *space, items, done.restored_count)?;
                if !again && !lost && self.rng.random_bool(0.3) {
                    self.clients[call.client].consider(Intent::Restore {
                        space: *space,
                        items: items.clone(),
                        again: true,
                    });
                }
                Ok(())
            }
            (
                Intent::List {
                    space, dead, max, ..
                },
                Ok(Reply::Peek(page)),
            ) => self.hear_page(
                call,
                (*space, *dead, *max),
                &page.items,
                page.cursor.as_ref(),
            ),
            (
                Intent::List {
                    space, dead, max, ..
                },
                Ok(Reply::DeadLetters(page)),
            ) => self.hear_page(
                call,
                (*space, *dead, *max),
                &page.items,
                page.cursor.as_ref(),
            ),
            (Intent::Cancel { space, ids }, Ok(Reply::Cancel(done))) => {
                for (id, _) in changed(ids, &done.results)? {
                    self.hits.hit(Fault::Cancelled);
                    self.checker.cancelled(at, *space, id)?;
                }
                Ok(())
            }
            (Intent::Redrive { space, ids }, Ok(Reply::Redrive(done))) => {
                for (id, lsn) in changed(ids, &done.results)? {
                    self.hits.hit(Fault::Redriven);
                    self.checker.redriven(at, *space, id, lsn);
                }
                Ok(())
            }
            (Intent::Explain { .. }, Ok(Reply::Explain(_))) => Ok(()),
            (_, Ok(other)) => Err(Violation::new(
                "a call gets the reply of its procedure",
                format!("{other:?}"),
            )),
            (intent, Err(_)) => {
                self.maybe_again(call.client, intent.clone(), lost);
                Ok(())
            }
        }
    }

    /// Most operators try again what was refused.
    fn maybe_again(&mut self, client: usize, intent: Intent, lost: bool) {
        let repeatable = matches!(
            intent,
            Intent::Restore { .. }
                | Intent::Drain {
                    request_id: Some(_),
                    ..
                }
        );
        if repeatable && !lost && self.rng.random_bool(0.9) {
            self.clients[client].retry = Some(intent);
        }
    }

    fn hear_bundle(
        &mut self,
        at: Moment,
        call: &OpenCall,
        items: &[PendingItem],
        lost: bool,
    ) -> Result<(), Violation> {
        let Intent::Drain {
            space,
            into,
            request_id,
            max,
            ..
        } = &call.intent
        else {
            unreachable!("the caller has looked");
        };
        self.hits.add(Fault::Drained, items.len() as u64);
        check_payloads(items)?;
        self.checker
            .drained(at, *space, request_id.as_deref(), items, *max)?;
        if lost || items.is_empty() {
            return Ok(());
        }
        if request_id.is_some() && self.rng.random_bool(0.3) {
            self.hits.hit(Fault::DrainedAgain);
            self.clients[call.client].consider(call.intent.clone());
        }
        if self.rng.random_bool(0.9) {
            self.clients[call.client].retry = Some(Intent::Restore {
                space: *into,
                items: items.to_vec(),
                again: false,
            });
        }
        Ok(())
    }

    fn hear_page(
        &mut self,
        call: &OpenCall,
        (space, dead, max): (usize, bool, u32),
        items: &[PendingItem],
        cursor: Option<&String>,
    ) -> Result<(), Violation> {
        self.hits.hit(Fault::Listed);
        check_payloads(items)?;
        broken(
            items.len() > max as usize,
            "a page is no longer than asked",
            || format!("{} of {max}", items.len()),
        )?;
        let wrong = items.iter().find(|item| item.dead_letter != dead);
        broken(wrong.is_some(), "a page shows what was asked for", || {
            format!("{wrong:?}")
        })?;
        let client = &mut self.clients[call.client];
        if let Some(cursor) = cursor {
            client.consider(Intent::List {
                space,
                dead,
                max,
                cursor: Some(cursor.clone()),
            });
        }
        let Some(item) = items.first() else {
            return Ok(());
        };
        let ids = items.iter().map(|item| item.sequence_id).collect();
        client.consider(match (dead, self.rng.random_range(0..4)) {
            (true, 0..3) => Intent::Redrive { space, ids },
            (_, 0) => Intent::Explain {
                space,
                id: item.sequence_id,
            },
            _ => Intent::Cancel {
                space,
                ids: vec![item.sequence_id],
            },
        });
        Ok(())
    }
}

/// What leaves is what came in.
fn check_payloads(items: &[PendingItem]) -> Result<(), Violation> {
    let wrong = items
        .iter()
        .find(|item| item.payload.as_ref().is_some_and(|p| !is_whole(p)));
    broken(
        wrong.is_some(),
        "an item shows the payload that was enqueued",
        || format!("{:?}", wrong.map(|item| item.sequence_id)),
    )
}

/// The items that were changed, and the LSNs of the records that did it.
fn changed(ids: &[u64], results: &[ChangeResult]) -> Result<Vec<(u64, u64)>, Violation> {
    broken(
        results.len() != ids.len(),
        "every item of a call has a result",
        || format!("{} of {}", results.len(), ids.len()),
    )?;
    let pairs = ids.iter().zip(results);
    Ok(pairs
        .filter(|(_, result)| result.success)
        .map(|(id, result)| {
            (
                *id,
                result.receipt.as_ref().map_or(0, |receipt| receipt.lsn),
            )
        })
        .collect())
}
